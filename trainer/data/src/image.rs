//! Images: decoded as the reference opens them, augmented, and resized to the square that a tower reads.

pub mod augment;
pub mod decode;
pub mod preprocess;
pub mod resize;
pub mod square;

/// An RGB pixel.
pub type Rgb = [u8; 3];
