//! Empty room: error.
