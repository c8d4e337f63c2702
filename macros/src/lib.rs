//! The attribute macro of adjoin.
