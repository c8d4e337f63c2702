//! What lies inside a segment.
