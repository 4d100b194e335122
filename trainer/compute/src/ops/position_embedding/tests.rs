//! Position embeddings of image tokens: which row each gets, and the device against the CPU.

use cnclip_compute::device::DType;
use cnclip_compute::ops::position_embedding;
use cnclip_compute::tensor::{IndexView, TensorView};

use crate::device_under_test::DTYPES;
use crate::host_and_device::{HostAndDevice, SIDES, visible_patches};

#[test]
fn a_token_gets_the_row_of_its_position_and_adds_its_gradient_to_it() {
    let class = [0.5, 0.25];
    let positions = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
    let visible = IndexView::from(&[0, 2, 1, 2][..]);
    let mut y = vec![9.0; 12];
    position_embedding::forward(
        TensorView::Host(&positions),
        TensorView::Host(&class),
        visible,
        2,
        (&mut y).into(),
    );

    assert_eq!(
        y,
        [1.5, 2.25, 3.0, 4.0, 7.0, 8.0, 1.5, 2.25, 5.0, 6.0, 7.0, 8.0]
    );

    let dy: Vec<f32> = (1..=12).map(|i| i as f32).collect();
    let mut dclass = vec![1.0; 2];
    let mut dpositions = vec![1.0; 8];
    position_embedding::backward(
        (&mut dpositions).into(),
        (&mut dclass).into(),
        visible,
        2,
        (&dy).into(),
    );

    assert_eq!(dclass, [9.0, 11.0]);
    assert_eq!(dpositions, [9.0, 11.0, 4.0, 5.0, 10.0, 11.0, 17.0, 19.0]);
}

#[test]
fn position_embeddings_on_a_device_are_the_cpus() {
    let batch = 3;
    let width = 24;
    for (dtype, percent) in DTYPES
        .into_iter()
        .flat_map(|dtype| [(dtype, 0), (dtype, 50)])
    {
        let visible = visible_patches(batch, 9, percent);
        let rows = batch + visible.host.len();
        let positions = HostAndDevice::weights(10 * width, 2, dtype);
        let class = HostAndDevice::weights(width, 3, dtype);
        let mut y = HostAndDevice::activations(rows * width, 4, dtype);
        let dy = HostAndDevice::activations(rows * width, 5, dtype);
        let mut dpositions = HostAndDevice::f32s(10 * width, 6, DType::F32);
        let mut dclass = HostAndDevice::f32s(width, 7, DType::F32);

        for side in SIDES {
            position_embedding::forward(
                positions.view(side),
                class.view(side),
                visible.view(side),
                batch,
                y.view_mut(side),
            );

            position_embedding::backward(
                dpositions.view_mut(side),
                dclass.view_mut(side),
                visible.view(side),
                batch,
                dy.view(side),
            );
        }

        y.assert_agree("positions", 1.0);
        dpositions.assert_agree("positions' gradient", 0.0);
        dclass.assert_agree("class embedding's gradient", 0.0);
    }
}
