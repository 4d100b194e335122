//! What the emulator finds.

use cnclip_compute::device::{Buffer, Device, Fault, Format, Launch};
use cnclip_emulator::Emulator;

fn device() -> Device {
    Emulator::device(1 << 20)
}

fn fault(device: &Device) -> String {
    device.check().unwrap_err().to_string()
}

#[test]
fn a_kernel_that_leaves_its_memory_is_found() {
    for (count, inside) in [(9, true), (10, false)] {
        let device = device();
        let mut y = Buffer::new(&device, 10, Format::F32);
        Launch::new("faulty_beyond")
            .write(&mut y.span_mut())
            .whole(count)
            .run(&device);

        match inside {
            true => assert_eq!(y.span().download()[9], 1.0),
            false => assert!(fault(&device).contains("around the memory")),
        }
    }
}

#[test]
fn threads_that_wait_in_vain_are_found() {
    let device = device();
    let mut y = Buffer::new(&device, 1, Format::F32);
    Launch::new("faulty_barrier")
        .write(&mut y.span_mut())
        .run(&device);

    assert!(fault(&device).contains("wait for others"));
}

#[test]
fn a_missing_barrier_shows() {
    for (waits, right) in [(1, true), (0, false)] {
        let device = device();
        let mut y = Buffer::new(&device, 64, Format::F32);
        let launch = Launch::new("faulty_neighbour").threads(64);
        launch.write(&mut y.span_mut()).whole(waits).run(&device);
        let found = y.span().download();
        let expected = |(i, y): (usize, &f32)| *y == ((i + 1) % 64) as f32;

        assert_eq!(found.iter().enumerate().all(expected), right);
    }
}

#[test]
fn arguments_that_are_not_the_kernels_are_refused() {
    let device = device();
    let mut y = Buffer::new(&device, 1, Format::F32);
    Launch::new("faulty_beyond")
        .write(&mut y.span_mut())
        .real(0.0)
        .run(&device);

    assert!(fault(&device).contains("takes (pw) and is given (pr)"));
    let device = self::device();
    Launch::new("no_such").run(&device);
    assert!(fault(&device).contains("no such kernel"));
}

#[test]
fn too_much_memory_is_refused_with_numbers() {
    let device = device();
    let kept = Buffer::new(&device, 1 << 19, Format::U8);
    assert_eq!(device.memory(), Ok((1 << 19, 1 << 20)));
    drop(Buffer::new(&device, 1 << 18, Format::F32));
    let right = Fault::OutOfMemory {
        wanted: 1 << 20,
        free: 1 << 19,
        all: 1 << 20,
    };

    assert_eq!(device.check(), Err(right));
    drop(kept);
}
