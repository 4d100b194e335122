//! Empty room: bert.
