//! How cublasLt does one kind of product: shapes, formats and the algorithm that it chose.

use std::ffi::c_void;

use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys;
use sys::cublasLtMatmulDescAttributes_t as Attribute;
use sys::cublasLtMatmulPreferenceAttributes_t as Preference;
use sys::cublasLtMatrixLayoutAttribute_t as LayoutAttribute;

use super::context::RawHandle;
use super::gemm_cache::WORKSPACE_BYTES;
use crate::device::{DType, DeviceAddress, Gemm, MatrixDesc};

/// The alignment of the widest access: more makes no difference.
const MAX_USEFUL_ALIGNMENT: u64 = 16;

/// What two products have in common that have the same plan.
#[derive(PartialEq, Eq, Hash)]
pub(super) struct GemmPlanKey {
    operands: [MatrixDesc; 3],
    bias: Option<DeviceAddress>,
    batch: usize,
}

impl GemmPlanKey {
    pub(super) fn from_gemm(product: &Gemm) -> Self {
        // Of an address only its alignment matters: operands of the same shape move from batch to batch.
        let operands = [product.a, product.b, product.target].map(|operand| MatrixDesc {
            address: address_alignment(operand.address),
            ..operand
        });

        Self {
            operands,
            // A bias is another epilogue, and its alignment restricts the algorithms.
            bias: product.bias.map(address_alignment),
            batch: product.batch,
        }
    }
}

fn address_alignment(address: DeviceAddress) -> u64 {
    (1 << address.trailing_zeros().min(63)).min(MAX_USEFUL_ALIGNMENT)
}

/// The plan of a kind of product. cublasLt is column-major, so each row-major matrix is its own transpose there, and
/// `target = a · b` is `targetᵀ = bᵀ · aᵀ`: the second factor comes first.
pub(super) struct GemmPlan {
    matmul_desc: MatmulDesc,
    first: MatrixLayout,
    second: MatrixLayout,
    target: MatrixLayout,
    algorithm: sys::cublasLtMatmulAlgo_t,
    /// When it was used last.
    pub(super) last_used: u64,
}

// SAFETY: the algorithm is plain data without pointers of this process's memory.
unsafe impl Send for GemmPlan {}

/// The parts of a plan as cublasLt takes them.
pub(super) struct GemmPlanHandles {
    pub(super) matmul_desc: sys::cublasLtMatmulDesc_t,
    pub(super) first: sys::cublasLtMatrixLayout_t,
    pub(super) second: sys::cublasLtMatrixLayout_t,
    pub(super) target: sys::cublasLtMatrixLayout_t,
    pub(super) algorithm: *const sys::cublasLtMatmulAlgo_t,
}

impl GemmPlan {
    /// Asks cublasLt for the fastest way.
    pub(super) fn new(library: sys::cublasLtHandle_t, product: &Gemm) -> Result<Self, CublasError> {
        let Gemm { a, b, target, .. } = product;
        let matmul_desc = MatmulDesc::new(product)?;
        let [first, second, target] =
            [b, a, target].map(|operand| MatrixLayout::new(operand, product.batch));
        let first = first?;
        let second = second?;
        let target = target?;
        let preference = MatmulPreference::new(product)?;

        // The first proposal is taken without measuring: timings would choose differently from run
        // to run, and another algorithm adds in another order.
        // SAFETY: all of these live until the end of this function.
        let found = unsafe {
            result::get_matmul_algo_heuristic(
                library,
                matmul_desc.0.0,
                first.0.0,
                second.0.0,
                target.0.0,
                target.0.0,
                preference.0.0,
            )?
        };

        Ok(Self {
            matmul_desc,
            first,
            second,
            target,
            algorithm: found.algo,
            last_used: 0,
        })
    }

    /// Says where the bias of the next product lies.
    pub(super) fn set_bias(&mut self, bias: Option<DeviceAddress>) -> Result<(), CublasError> {
        match bias {
            Some(at) => self
                .matmul_desc
                .set_attribute(Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &at),
            None => Ok(()),
        }
    }

    pub(super) fn raw_handles(&self) -> GemmPlanHandles {
        GemmPlanHandles {
            matmul_desc: self.matmul_desc.0.0,
            first: self.first.0.0,
            second: self.second.0.0,
            target: self.target.0.0,
            algorithm: &raw const self.algorithm,
        }
    }
}

/// What is computed.
struct MatmulDesc(RawHandle<sys::cublasLtMatmulDescOpaque_t>);

impl MatmulDesc {
    fn new(product: &Gemm) -> Result<Self, CublasError> {
        // Sums in fp32 for both formats; and not TF32, which would shorten fp32 factors to ten bits of fraction.
        let description = result::create_matmul_desc(
            sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
            sys::cudaDataType_t::CUDA_R_32F,
        )?;

        let mut description = Self(RawHandle(description));
        // CUBLAS_OP_N and CUBLAS_OP_T, which the bindings do not name.
        let turn = |operand: &MatrixDesc| i32::from(operand.transposed);
        description.set_attribute(Attribute::CUBLASLT_MATMUL_DESC_TRANSA, &turn(&product.b))?;
        description.set_attribute(Attribute::CUBLASLT_MATMUL_DESC_TRANSB, &turn(&product.a))?;

        if product.bias.is_some() {
            let epilogue = sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS as u32;
            description.set_attribute(Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue)?;
            let format = cuda_data_type(product.target.dtype)? as i32;
            description.set_attribute(Attribute::CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &format)?;
        }

        Ok(description)
    }

    fn set_attribute<T: Copy>(
        &mut self,
        attribute: Attribute,
        value: &T,
    ) -> Result<(), CublasError> {
        let at = (&raw const *value).cast();
        let size = size_of::<T>();
        // SAFETY: the description is this one's own, and the value is copied.
        unsafe { result::set_matmul_desc_attribute(self.0.0, attribute, at, size) }
    }
}

impl Drop for MatmulDesc {
    fn drop(&mut self) {
        // SAFETY: it was made once. An error could not be returned.
        let _ = unsafe { result::destroy_matmul_desc(self.0.0) };
    }
}

/// Where a matrix has its numbers.
struct MatrixLayout(RawHandle<sys::cublasLtMatrixLayoutOpaque_t>);

impl MatrixLayout {
    fn new(operand: &MatrixDesc, batch: usize) -> Result<Self, CublasError> {
        let MatrixDesc {
            dtype,
            rows,
            cols,
            row_stride,
            batch_stride,
            ..
        } = *operand;

        let kind = cuda_data_type(dtype)?;
        // Columns before rows: cublasLt gets the transpose, which is column-major.
        let layout =
            result::create_matrix_layout(kind, cols as u64, rows as u64, row_stride as i64)?;
        let mut layout = Self(RawHandle(layout));

        if batch > 1 {
            let batch = i32::try_from(batch)
                .map_err(|_| CublasError(sys::cublasStatus_t::CUBLAS_STATUS_INVALID_VALUE))?;
            layout.set_attribute(LayoutAttribute::CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batch)?;
            let apart = batch_stride as i64;
            layout.set_attribute(
                LayoutAttribute::CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                &apart,
            )?;
        }

        Ok(layout)
    }

    fn set_attribute<T: Copy>(
        &mut self,
        attribute: LayoutAttribute,
        value: &T,
    ) -> Result<(), CublasError> {
        let at = (&raw const *value).cast();
        let size = size_of::<T>();
        // SAFETY: the layout is this one's own, and the value is copied.
        unsafe { result::set_matrix_layout_attribute(self.0.0, attribute, at, size) }
    }
}

impl Drop for MatrixLayout {
    fn drop(&mut self) {
        // SAFETY: it was made once. An error could not be returned.
        let _ = unsafe { result::destroy_matrix_layout(self.0.0) };
    }
}

/// What an algorithm may count on.
struct MatmulPreference(RawHandle<sys::cublasLtMatmulPreferenceOpaque_t>);

impl MatmulPreference {
    fn new(product: &Gemm) -> Result<Self, CublasError> {
        let preference = Self(RawHandle(result::create_matmul_pref()?));
        preference.set_attribute(
            Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
            &(WORKSPACE_BYTES as u64),
        )?;

        let [first, second, target] = [product.b, product.a, product.target]
            .map(|operand| address_alignment(operand.address));
        // The bias is read as the target is written.
        let target = product
            .bias
            .map_or(target, |bias| target.min(address_alignment(bias)));

        for (attribute, alignment) in [
            (
                Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
                first,
            ),
            (
                Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                second,
            ),
            (
                Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
                target,
            ),
            (
                Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
                target,
            ),
        ] {
            preference.set_attribute(attribute, &(alignment as u32))?;
        }

        Ok(preference)
    }

    fn set_attribute<T: Copy>(&self, attribute: Preference, value: &T) -> Result<(), CublasError> {
        let (at, size): (*const c_void, _) = ((&raw const *value).cast(), size_of::<T>());
        // SAFETY: the preference is this one's own, and the value is copied.
        unsafe { result::set_matmul_pref_attribute(self.0.0, attribute, at, size) }
    }
}

impl Drop for MatmulPreference {
    fn drop(&mut self) {
        // SAFETY: it was made once. An error could not be returned.
        let _ = unsafe { result::destroy_matmul_pref(self.0.0) };
    }
}

/// cublasLt's word for a format.
fn cuda_data_type(format: DType) -> Result<sys::cudaDataType_t, CublasError> {
    match format {
        DType::F32 => Ok(sys::cudaDataType_t::CUDA_R_32F),
        DType::Bf16 => Ok(sys::cudaDataType_t::CUDA_R_16BF),
        DType::U32 | DType::U8 => Err(CublasError(
            sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED,
        )),
    }
}
