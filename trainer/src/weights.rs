//! Empty room: weights.
