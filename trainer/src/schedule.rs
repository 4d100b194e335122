//! Empty room: schedule.
