//! Empty room: resnet.
