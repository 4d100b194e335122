//! Empty room: augment.
