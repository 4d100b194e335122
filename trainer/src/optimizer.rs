//! Empty room: optimizer.
