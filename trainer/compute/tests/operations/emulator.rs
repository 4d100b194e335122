//! The faults that the emulator detects and a GPU would not report.

use cnclip_compute::device::{DType, Device, DeviceBuffer, DeviceError, KernelLaunch};
use cnclip_emulator::Emulator;

fn device() -> Device {
    Emulator::new_device(1 << 20)
}

fn fault(device: &Device) -> String {
    device.synchronize().unwrap_err().to_string()
}

#[test]
fn a_write_outside_of_an_allocation_is_detected() {
    for (count, inside) in [(9, true), (10, false)] {
        let device = device();
        let mut y = DeviceBuffer::new(&device, 10, DType::F32);
        KernelLaunch::new("faulty_beyond")
            .arg_output(&mut y.as_view_mut())
            .arg_u32(count)
            .launch_on(&device);

        match inside {
            true => assert_eq!(y.as_view().to_host()[9], 1.0),
            false => assert!(fault(&device).contains("around the memory")),
        }
    }
}

#[test]
fn threads_that_wait_for_others_that_returned_are_detected() {
    let device = device();
    let mut y = DeviceBuffer::new(&device, 1, DType::F32);
    KernelLaunch::new("faulty_barrier")
        .arg_output(&mut y.as_view_mut())
        .launch_on(&device);

    assert!(fault(&device).contains("wait for others"));
}

#[test]
fn a_missing_barrier_is_detected() {
    for (waits, right) in [(1, true), (0, false)] {
        let device = device();
        let mut y = DeviceBuffer::new(&device, 64, DType::F32);
        let launch = KernelLaunch::new("faulty_neighbour").with_threads(64);
        launch
            .arg_output(&mut y.as_view_mut())
            .arg_u32(waits)
            .launch_on(&device);
        let found = y.as_view().to_host();
        let expected = |(i, y): (usize, &f32)| *y == ((i + 1) % 64) as f32;

        assert_eq!(found.iter().enumerate().all(expected), right);
    }
}

#[test]
fn arguments_that_are_not_the_kernels_are_refused() {
    let device = device();
    let mut y = DeviceBuffer::new(&device, 1, DType::F32);
    KernelLaunch::new("faulty_beyond")
        .arg_output(&mut y.as_view_mut())
        .arg_f32(0.0)
        .launch_on(&device);

    assert!(fault(&device).contains("takes (pw) and is given (pr)"));
    let device = self::device();
    KernelLaunch::new("no_such").launch_on(&device);
    assert!(fault(&device).contains("no such kernel"));
}

#[test]
fn an_allocation_that_is_too_large_is_refused_with_numbers() {
    let device = device();
    let kept = DeviceBuffer::new(&device, 1 << 19, DType::U8);
    assert_eq!(device.memory_info(), Ok((1 << 19, 1 << 20)));
    drop(DeviceBuffer::new(&device, 1 << 18, DType::F32));
    let right = DeviceError::OutOfMemory {
        wanted: 1 << 20,
        free: 1 << 19,
        all: 1 << 20,
    };

    assert_eq!(device.synchronize(), Err(right));
    drop(kept);
}
