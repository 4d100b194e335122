//! Empty room: checkpoint.
