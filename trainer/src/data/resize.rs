//! Empty room: resize.
