//! Empty room: ops.
