//! A drawn plot as dots, for documents and chats that show no SVG.

use std::sync::Arc;

use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{Options, Tree, fontdb::Database};

use crate::{Error, Result};

/// Dots for each of the drawing's units: text stays sharp on dense screens.
const DENSITY: f32 = 2.0;

/// The PNG of a plot's SVG, on a face of its own: the same on every machine.
///
/// # Errors
/// A drawing that is none, or is larger than memory.
pub fn to_png(svg: &str) -> Result<Vec<u8>> {
    let mut fonts = Database::new();
    fonts.load_font_data(notosans::REGULAR_TTF.to_vec());
    fonts.set_sans_serif_family("Noto Sans");
    let options = Options { fontdb: Arc::new(fonts), ..Options::default() };
    let tree = Tree::from_str(svg, &options).map_err(|e| Error::format(format!("the plot: {e}")))?;
    let side = |units: f32| (units * DENSITY).ceil() as u32;
    let (width, height) = (side(tree.size().width()), side(tree.size().height()));
    let mut dots = Pixmap::new(width, height)
        .ok_or_else(|| Error::limit(format!("a plot of `{width}x{height}` dots does not fit into memory")))?;
    resvg::render(&tree, Transform::from_scale(DENSITY, DENSITY), &mut dots.as_mut());
    dots.encode_png().map_err(|e| Error::format(format!("the plot: {e}")))
}

#[cfg(test)]
mod tests {
    use super::super::{Heatmap, score_colour};
    use super::*;

    #[test]
    fn dots_have_the_colours_of_the_cells_and_there_is_text() {
        let map =
            Heatmap::niah(&[100, 900], &[0.0, 1.0], vec![vec![Some(0.0), Some(0.5)], vec![Some(1.0), None]], None);
        let image = image::load_from_memory(&to_png(&map.to_svg().unwrap()).unwrap()).unwrap().to_rgb8();
        assert_eq!(image.dimensions(), (2520, 1152));
        // The middles of four cells; what was not measured is white.
        let at = |x: f64, y: f64| {
            let [r, g, b] = image.get_pixel((2.0 * x) as u32, (2.0 * y) as u32).0;
            format!("#{r:02X}{g:02X}{b:02X}")
        };
        let want =
            [score_colour(0.0).unwrap(), score_colour(0.5).unwrap(), score_colour(1.0).unwrap(), "#FFFFFF".into()];
        assert_eq!([at(345.0, 147.0), at(855.0, 147.0), at(345.0, 362.0), at(855.0, 362.0)], want);
        // The title below the columns, in black on white.
        let title = image.enumerate_pixels().filter(|(_, y, p)| (1070..1110).contains(y) && p.0[0] < 64).count();
        assert!(title > 300, "{title} dark dots where the axis is named");
        assert!(to_png("no drawing").is_err());
    }
}
