//! GIF: the first frame, in the colors of its palette.

use gif::{ColorOutput, DecodeOptions, Frame};

use super::{DecodeError, DecodedImage, EncodedImage, PixelData};

pub(super) fn decode_gif(bytes: &[u8]) -> Result<DecodedImage, DecodeError> {
    let source = EncodedImage {
        format: "GIF",
        bytes,
    };

    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    let mut decoder = options
        .read_info(bytes)
        .map_err(|e| source.decode_error(e))?;
    let screen_width = usize::from(decoder.width());
    let screen_height = usize::from(decoder.height());
    let frame = decoder
        .next_frame_info()
        .map_err(|e| source.decode_error(e))?;
    let frame = frame.ok_or_else(|| source.decode_error("it has no frame"))?;
    // A frame may reach beyond the screen that the header announces; Pillow enlarges the image then.
    let right = usize::from(frame.left) + usize::from(frame.width);
    let bottom = usize::from(frame.top) + usize::from(frame.height);
    let width = screen_width.max(right);
    let height = screen_height.max(bottom);

    source.check_dimensions(width, height)?;
    let mut frame = frame.clone();
    let mut indices = vec![0; decoder.buffer_size()];
    decoder
        .read_into_buffer(&mut indices)
        .map_err(|e| source.decode_error(e))?;

    frame.buffer = indices.into();
    let indices = place_on_canvas(&frame, width, height);
    let palette = decoder
        .palette()
        .map_err(|e| source.decode_error(e))?
        .as_chunks()
        .0;

    // Pillow opens a palette that only counts up as gray, which may be mixed.
    let pixels = if is_gray_ramp(palette) {
        PixelData::Gray(indices)
    } else {
        // An index outside of the palette is black.
        let color = |&index: &u8| palette.get(usize::from(index)).copied().unwrap_or([0; 3]);
        PixelData::Palette(indices.iter().flat_map(color).collect())
    };

    Ok(DecodedImage {
        width,
        height,
        pixels,
    })
}

/// The frame's indices at its offset; the canvas around it has the transparent index, or the first.
fn place_on_canvas(frame: &Frame<'_>, width: usize, height: usize) -> Vec<u8> {
    let left = usize::from(frame.left);
    let top = usize::from(frame.top);
    let across = usize::from(frame.width);
    let mut screen = vec![frame.transparent.unwrap_or(0); width * height];
    let rows = screen.chunks_exact_mut(width).skip(top);

    for (row, indices) in rows.zip(frame.buffer.chunks_exact(across.max(1))) {
        row[left..left + across].copy_from_slice(indices);
    }

    screen
}

fn is_gray_ramp(palette: &[[u8; 3]]) -> bool {
    (0..=u8::MAX)
        .zip(palette)
        .all(|(index, color)| *color == [index; 3])
}
