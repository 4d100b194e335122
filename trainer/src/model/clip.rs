//! Empty room: clip.
