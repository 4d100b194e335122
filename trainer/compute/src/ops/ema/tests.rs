//! The exponential moving average: the device against the CPU, and the bfloat16 copy of swapped weights.

use cnclip_compute::device::DType;
use cnclip_compute::ops::ema;
use cnclip_compute::tensor::TensorView;

use crate::device_under_test::{DTYPES, device_memory, round_to_dtype, uniform_values};
use crate::host_and_device::{HostAndDevice, SIDES};

#[test]
fn an_average_on_a_device_is_the_cpus() {
    for dtype in DTYPES {
        for len in [1, 1000, 40_009] {
            let mut averages = HostAndDevice::f32s(len, 1, DType::F32);
            let values = HostAndDevice::weights(len, 2, dtype);
            for side in SIDES {
                ema::update(averages.view_mut(side), values.view(side), 0.75);
            }

            averages.assert_agree("averages", 0.0);
        }
    }
}

#[test]
fn swapped_weights_are_rounded_where_products_read_them() {
    let memory = device_memory(DType::Bf16);
    let first = uniform_values(300, 1, DType::F32);
    let second = uniform_values(300, 2, DType::F32);
    let mut averages = memory.alloc_f32(300);
    let mut values = memory.alloc_weights(300);
    averages.copy_from(TensorView::Host(&first));
    values.copy_from(TensorView::Host(&second));

    ema::swap(&mut averages, &mut values);
    assert_eq!(*averages.to_host(), second);
    assert_eq!(*values.to_host(), first);

    let copy = values.view().expect_device().bf16_copy().unwrap().to_host();
    let rounded: Vec<f32> = first
        .iter()
        .map(|&value| round_to_dtype(value, DType::Bf16))
        .collect();

    assert_eq!(copy, rounded);
}
