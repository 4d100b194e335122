//! The cosines of a teacher's features and one's own.

pub mod gpu;
