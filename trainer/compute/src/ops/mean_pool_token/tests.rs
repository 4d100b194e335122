//! Image tokens with their mean in front: the device against the CPU.

use cnclip_compute::ops::mean_pool_token;

use crate::comparison::compare;

#[test]
fn mean_tokens_on_a_device_are_the_cpus() {
    for (batch, places, width) in [(3, 4, 5), (2, 49, 300)] {
        let names = [
            ("tokens", 1.0),
            ("means", 1.0),
            ("positions", 1.0),
            ("dtokens", 1.0),
            ("dx", 1.0),
        ];

        compare(&format!("{batch} × {places} × {width}"), names, |setup| {
            let all = (1 + places) * width;
            let positions = setup.weights(all, 1);
            let mut gradient = setup.f32s(all, 2);
            let x = setup.activations(batch * places * width, 3);
            let mut tokens = setup.activations(batch * all, 4);
            let mut means = setup.activations(batch * width, 5);
            mean_pool_token::forward(
                width,
                positions.view(),
                x.view(),
                tokens.view_mut(),
                means.view_mut(),
            );

            let mut dtokens = setup.activations(batch * all, 6);
            let dmeans = setup.activations(batch * width, 7);
            let mut dx = setup.activations(x.len(), 8);
            mean_pool_token::backward(
                width,
                gradient.view_mut(),
                dtokens.view_mut(),
                dmeans.view(),
                dx.view_mut(),
            );

            [tokens, means, gradient, dtokens, dx]
        });
    }
}
