//! Empty room: report.
