//! Arrays of more numbers than 32 bits count, without the memory for them: the first block of a launch that is given
//! such a count.

use cnclip_compute::device::{DType, DeviceBuffer, KernelLaunch};

use crate::device_under_test::DEVICE;

/// A count whose lower 32 bits are 1: a kernel that takes those alone writes one number.
const COUNT: usize = (1 << 32) + 1;
/// Threads of the block.
const THREADS: usize = 256;
/// Numbers that the block writes where a thread takes eight.
const OCTETS: usize = 8 * THREADS;

/// The arrays of a launch.
struct Arrays {
    /// Filled with 1.
    ones: DeviceBuffer,
    /// Filled with 5.
    fives: DeviceBuffer,
    /// Filled with 7.
    sevens: DeviceBuffer,
}

impl Arrays {
    fn new() -> Self {
        let filled = |value: f32| {
            let mut array = DeviceBuffer::new(&DEVICE, OCTETS, DType::F32);
            array.as_view_mut().copy_from_host(&vec![value; OCTETS]);
            array
        };

        Self {
            ones: filled(1.0),
            fives: filled(5.0),
            sevens: filled(7.0),
        }
    }
}

type AddArguments = fn(KernelLaunch, &mut Arrays) -> KernelLaunch;

/// From the ones into the fives.
fn unary(launch: KernelLaunch, arrays: &mut Arrays) -> KernelLaunch {
    launch
        .arg_input(arrays.ones.as_view())
        .arg_output(&mut arrays.fives.as_view_mut())
}

#[test]
fn kernels_take_counts_of_more_than_32_bits() {
    let with_count: AddArguments = |launch, arrays| unary(launch, arrays).arg_count(COUNT);
    let convert: AddArguments = |launch, arrays| {
        unary(launch, arrays)
            .arg_input_or_null(None)
            .arg_count(COUNT)
    };
    let rectify: AddArguments = |launch, arrays| {
        let launch = unary(launch, arrays).arg_output(&mut arrays.sevens.as_view_mut());
        launch.arg_count(COUNT)
    };

    // Kernel, arguments, and how many numbers its block writes.
    let table: [(&str, AddArguments, usize); 12] = [
        ("gelu_forward_f32", with_count, OCTETS),
        ("gelu_backward_f32", with_count, OCTETS),
        ("quick_gelu_forward_f32", with_count, OCTETS),
        ("quick_gelu_backward_f32", with_count, OCTETS),
        ("branch_add_f32", with_count, OCTETS),
        ("branch_rectify_f32", rectify, OCTETS),
        ("convert_f32_f32", convert, OCTETS),
        (
            "average_add",
            |launch, arrays| {
                let launch = launch.arg_output(&mut arrays.fives.as_view_mut());
                let launch = launch.arg_input(arrays.ones.as_view());
                launch.arg_count(COUNT).arg_f32(0.5)
            },
            THREADS,
        ),
        (
            "average_swap",
            |launch, arrays| {
                let launch = launch.arg_output(&mut arrays.fives.as_view_mut());
                let launch = launch.arg_output(&mut arrays.ones.as_view_mut());
                launch.arg_input_or_null(None).arg_count(COUNT)
            },
            THREADS,
        ),
        (
            "pool_forward_f32",
            |launch, arrays| unary(launch, arrays).arg_count(COUNT).arg_u32(2).arg_u32(1),
            THREADS,
        ),
        (
            "pool_backward_f32",
            |launch, arrays| {
                let launch = unary(launch, arrays).arg_count(COUNT);
                launch.arg_u32(2).arg_u32(1).arg_u32(0)
            },
            THREADS,
        ),
        (
            "interleave_numbers_f32",
            |launch, arrays| unary(launch, arrays).arg_count(COUNT).arg_u32(2),
            3 * THREADS,
        ),
    ];

    for (kernel, add_arguments, written) in table {
        let mut arrays = Arrays::new();
        add_arguments(KernelLaunch::new(kernel), &mut arrays).launch_on(&DEVICE);
        let (target, before) = match kernel {
            "branch_rectify_f32" => (&arrays.sevens, 7.0),
            _ => (&arrays.fives, 5.0),
        };

        let found = target.as_view().to_host();
        DEVICE.synchronize().unwrap();
        let changed = found.iter().filter(|value| **value != before).count();
        assert_eq!(changed, written, "{kernel}");
    }
}
