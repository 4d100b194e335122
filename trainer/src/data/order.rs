//! Empty room: order.
