//! Where the layers of a tower keep the activations of their backward pass: each in memory of its own, or
//! all in the same, so that each layer has to recompute its own.

/// One activation cache for each layer, or one for all.
///
/// # Source
/// Sharing is gradient checkpointing (Chen and others, 2016), layer by layer as in the reference.
#[derive(Debug)]
pub(super) struct ActivationStore<C> {
    caches: Vec<C>,
    layer_count: usize,
}

impl<C> ActivationStore<C> {
    /// Reserves memory for layers, of which none needs more than the first.
    pub(super) fn new<L>(layers: &[L], shared: bool, alloc_cache: impl Fn(&L) -> C) -> Self {
        let cache_count = if shared { 1 } else { layers.len() };
        Self {
            caches: layers.iter().take(cache_count).map(alloc_cache).collect(),
            layer_count: layers.len(),
        }
    }

    /// The cache of a layer.
    pub(super) fn cache_mut(&mut self, layer: usize) -> &mut C {
        let last = self.caches.len() - 1;
        &mut self.caches[layer.min(last)]
    }

    /// Whether a later layer overwrote the activations of a layer.
    pub(super) fn is_overwritten(&self, layer: usize) -> bool {
        // The last layer's activations are still there: the backward pass begins with it.
        self.caches.len() < self.layer_count && layer + 1 < self.layer_count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_layer_finds_its_activations_in_a_shared_cache() {
        for shared in [false, true] {
            let mut store = ActivationStore::new(&[7, 5, 3], shared, |_| 0);
            (0..3).for_each(|layer| *store.cache_mut(layer) = layer);
            for layer in (0..3).rev() {
                let found = *store.cache_mut(layer) == layer;
                assert_eq!(
                    (found, store.is_overwritten(layer)),
                    (layer == 2 || !shared, !found)
                );
            }
        }
    }
}
