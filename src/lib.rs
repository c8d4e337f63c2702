//! adjoin
