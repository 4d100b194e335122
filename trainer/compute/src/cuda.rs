//! NVIDIA cards as devices. NVIDIA's libraries are looked for when the first card is, so one program starts
//! with and without them. A build without the feature `cuda` has the same functions and finds no card.

#[cfg(feature = "cuda")]
mod card;
#[cfg(feature = "cuda")]
mod context;
mod found;
#[cfg(feature = "cuda")]
mod kernels;
#[cfg(feature = "cuda")]
mod peers;
#[cfg(feature = "cuda")]
mod plan;
#[cfg(feature = "cuda")]
mod products;
#[cfg(feature = "cuda")]
mod staging;

pub use found::{Found, FoundCard, Library, find};

use crate::device::{Device, Fault};

/// Whether this program was built with CUDA.
pub const BUILT: bool = cfg!(feature = "cuda");

/// The card of this number, as the driver counts them.
///
/// # Errors
/// If there is none, if it or its driver is too old, if a library is missing, or if this program was built
/// without CUDA.
#[cfg(feature = "cuda")]
pub fn open(index: usize) -> Result<Device, Fault> {
    card::Card::open(index).map(Device::new)
}

/// The card of this number: there is none for a program that was built without CUDA.
///
/// # Errors
/// Always.
#[cfg(not(feature = "cuda"))]
pub fn open(index: usize) -> Result<Device, Fault> {
    Err(Fault::broken(
        format!("cannot use CUDA device {index}"),
        WITHOUT,
    ))
}

/// What a program that was built without CUDA says.
#[cfg(not(feature = "cuda"))]
const WITHOUT: &str =
    "this program was built without CUDA; use the image trainer-cuda, or build with `make cuda`";
