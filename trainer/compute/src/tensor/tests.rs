use super::*;

#[test]
fn parts_of_an_array_are_written_where_they_lie() {
    let mut array = Memory::Host.alloc_activations(5);
    array
        .slice_mut(1..3)
        .copy_from(TensorView::Host(&[1.0, 2.0]));
    array.update_on_host(|values| values[4] = 3.0);
    let (mut left, right) = array.view_mut().split_at(2);
    assert_eq!(
        (left.len(), right.as_view().to_host().as_ref()),
        (2, [2.0, 0.0, 3.0].as_slice())
    );

    left.fill_zeros();
    assert_eq!(array.to_host().as_ref(), [0.0, 0.0, 2.0, 0.0, 3.0]);
    assert!(
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| array.first_n(6).len())).is_err()
    );
}
