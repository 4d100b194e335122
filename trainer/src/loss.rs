//! Empty room: loss.
