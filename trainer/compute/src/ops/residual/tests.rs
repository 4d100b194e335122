//! The joint of a residual block's branches: the device against the CPU.

use cnclip_compute::ops::residual;

use crate::comparison::compare;

#[test]
fn the_joint_of_two_branches_on_a_device_is_the_cpus() {
    for len in [1, 8, 1009, 4096] {
        compare(
            &len.to_string(),
            [("dy", 0.0), ("copy", 0.0), ("sum", 1.0)],
            |setup| {
                let y = setup.activations(len, 1);
                let mut dy = setup.activations(len, 2);
                let mut copy = setup.activations(len, 3);
                residual::relu_backward_split(y.view(), dy.view_mut(), copy.view_mut());
                let mut sum = setup.activations(len, 4);

                residual::add_residual(y.view(), sum.view_mut());
                [dy, copy, sum]
            },
        );
    }
}
