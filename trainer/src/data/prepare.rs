//! Empty room: prepare.
