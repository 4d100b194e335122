//! Matrix products by cublasLt, whose plans are cached: the heuristic that chooses an algorithm takes longer than
//! many a product.

use std::collections::HashMap;
use std::ffi::c_void;

use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys;
use cudarc::driver;

use super::context::{RawHandle, to_device_error};
use super::gemm_plan::{GemmPlan, GemmPlanKey};
use crate::device::{DeviceError, Gemm};

/// Bytes of scratch memory for a product: what NVIDIA recommends for Hopper. One workspace serves all products, since
/// they run one after the other on one stream.
pub(super) const WORKSPACE_BYTES: usize = 32 << 20;
/// Plans that are cached. Texts have other token counts in every batch, and each needs some twenty plans.
const MAX_PLANS: usize = 4096;

/// The products of one GPU.
pub(super) struct GemmCache {
    library: RawHandle<sys::cublasLtContext>,
    workspace: driver::sys::CUdeviceptr,
    plans: HashMap<GemmPlanKey, GemmPlan>,
    /// Counts products, to know which plans were used last.
    clock: u64,
}

impl GemmCache {
    /// For the GPU of this thread.
    pub(super) fn new() -> Result<Self, DeviceError> {
        let doing = "cannot multiply on a card";
        // SAFETY: loads the library and lets go of it.
        if !unsafe { sys::is_culib_present() } {
            let found = "the loader finds no libcublasLt.so.13; use the image trainer-cuda, or name its \
                         folder in LD_LIBRARY_PATH";
            return Err(DeviceError::failed(doing, found));
        }

        let library = result::create_handle().map_err(|error| cublas_error(doing, error))?;
        // SAFETY: it is given back when this is dropped.
        let workspace = unsafe { driver::result::malloc_sync(WORKSPACE_BYTES) };
        let workspace = workspace.map_err(|error| to_device_error(doing, error))?;

        Ok(Self {
            library: RawHandle(library),
            workspace,
            plans: HashMap::new(),
            clock: 0,
        })
    }

    /// Enqueues a product on the stream.
    pub(super) fn gemm(
        &mut self,
        product: &Gemm,
        stream: driver::sys::CUstream,
    ) -> Result<(), DeviceError> {
        let Gemm { a, b, target, .. } = product;
        if target.rows * target.cols * product.batch == 0 {
            return Ok(());
        }

        let doing = || describe_gemm(product);
        let plan = self
            .find_or_create_plan(product)
            .map_err(|error| cublas_error(&doing(), error))?;

        // Every time: a cached plan still points to the bias of the product before.
        plan.set_bias(product.bias)
            .map_err(|error| cublas_error(&doing(), error))?;
        let alpha = product.alpha;
        let beta = f32::from(u8::from(product.accumulate));
        let [first, second, out] =
            [b.address, a.address, target.address].map(|at| at as *mut c_void);
        let plan = plan.raw_handles();
        let library = self.library.0;

        let workspace = self.workspace;
        // SAFETY: the plan's parts live in `self`, the operands in memory that the caller's spans hold, and
        // work of the one stream that uses the workspace is done in order.
        let done = unsafe {
            result::matmul(
                library,
                plan.matmul_desc,
                (&raw const alpha).cast(),
                (&raw const beta).cast(),
                first,
                plan.first,
                second,
                plan.second,
                out,
                plan.target,
                out,
                plan.target,
                plan.algorithm,
                workspace as *mut c_void,
                WORKSPACE_BYTES,
                stream.cast(),
            )
        };

        done.map_err(|error| cublas_error(&doing(), error))
    }

    /// The plan of a product, made if it is new.
    fn find_or_create_plan(&mut self, product: &Gemm) -> Result<&mut GemmPlan, CublasError> {
        self.clock += 1;
        let key = GemmPlanKey::from_gemm(product);
        // Before the entry is looked up, which borrows the map until the plan is returned.
        if self.plans.len() >= MAX_PLANS && !self.plans.contains_key(&key) {
            self.evict_oldest_half();
        }

        let plan = match self.plans.entry(key) {
            std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::hash_map::Entry::Vacant(new) => {
                new.insert(GemmPlan::new(self.library.0, product)?)
            }
        };

        plan.last_used = self.clock;
        Ok(plan)
    }

    /// Evicts the half of the plans that was least recently used: a scan over all plans, but once in thousands of
    /// products.
    fn evict_oldest_half(&mut self) {
        let mut times: Vec<u64> = self.plans.values().map(|plan| plan.last_used).collect();
        let middle = times.len() / 2;
        let (_, &mut oldest, _) = times.select_nth_unstable(middle);
        self.plans.retain(|_, plan| plan.last_used >= oldest);
    }
}

impl Drop for GemmCache {
    fn drop(&mut self) {
        // Descriptors are freed before the handle of the library that made them.
        self.plans.clear();
        // SAFETY: both were made once, and nothing runs any more. An error could not be returned.
        unsafe {
            let _ = driver::result::free_sync(self.workspace);
            let _ = result::destroy_handle(self.library.0);
        }
    }
}

/// What was tried, for people.
fn describe_gemm(product: &Gemm) -> String {
    let side = |m: crate::device::MatrixDesc| {
        let sign = if m.transposed { "ᵀ" } else { "" };
        format!(
            "{:?} {}×{}{sign} every {}",
            m.dtype, m.rows, m.cols, m.row_stride
        )
    };

    let Gemm {
        a,
        b,
        target,
        batch,
        ..
    } = *product;

    format!(
        "cannot multiply {} by {} into {}, {batch} times",
        side(a),
        side(b),
        side(target)
    )
}

fn cublas_error(doing: &str, error: CublasError) -> DeviceError {
    DeviceError::failed(doing, format!("cublasLt answers {error}"))
}
