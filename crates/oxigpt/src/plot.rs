//! Curves as a picture, SVG or PNG. The font of both is our own, so that a machine needs none.

use std::sync::Once;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::element::{Circle, PathElement};
use plotters::prelude::{
    BLACK, BitMapBackend, Cartesian2d, ChartBuilder, ChartContext, Color, DrawingArea, DrawingBackend,
    IntoDrawingArea, IntoFont, LineSeries, RGBColor, SVGBackend, SeriesLabelPosition, WHITE,
};
use plotters::style::{FontStyle, ShapeStyle, register_font};

/// What a picture is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Svg,
    Png,
}

/// One run in the picture.
#[derive(Clone, Debug)]
pub(crate) struct Curve {
    pub(crate) name: String,
    /// Places and training losses: many, and noisy.
    pub(crate) faint: Vec<(f64, f64)>,
    /// Places and validation losses.
    pub(crate) bold: Vec<(f64, f64)>,
}

type Chart<'a, B> = ChartContext<'a, B, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

const SIZE: (u32, u32) = (800, 440);
/// Points of a faint curve at most: more of them would only be noise.
const FAINT_POINTS: usize = 200;
/// Colours that can be told apart by most eyes (Okabe and Ito 2008).
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
];

/// Draws curves over an axis of that name: the bytes of a file.
pub(crate) fn draw(format: Format, axis: &str, curves: &[Curve]) -> Result<Vec<u8>> {
    static FONT: Once = Once::new();
    FONT.call_once(|| {
        // It fails only for what is no font.
        let _ = register_font("sans-serif", FontStyle::Normal, dejavu::sans::regular());
    });
    match format {
        Format::Svg => {
            let mut text = String::new();
            draw_on(&SVGBackend::with_string(&mut text, SIZE).into_drawing_area(), axis, curves)?;
            Ok(text.into_bytes())
        }
        Format::Png => {
            let mut pixels = vec![0; (SIZE.0 * SIZE.1 * 3) as usize];
            draw_on(&BitMapBackend::with_buffer(&mut pixels, SIZE).into_drawing_area(), axis, curves)?;
            png(&pixels)
        }
    }
}

fn png(pixels: &[u8]) -> Result<Vec<u8>> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, SIZE.0, SIZE.1);
    encoder.set_color(png::ColorType::Rgb);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(pixels)?;
    writer.finish()?;
    Ok(file)
}

fn draw_on<B: DrawingBackend>(area: &DrawingArea<B, Shift>, axis: &str, curves: &[Curve]) -> Result<()> {
    let failed =
        |error: plotters::drawing::DrawingAreaErrorKind<B::ErrorType>| anyhow!("cannot draw: {error}");
    area.fill(&WHITE).map_err(failed)?;
    let points = || curves.iter().flat_map(|curve| curve.faint.iter().chain(&curve.bold));
    let end = points().map(|&(x, _)| x).fold(1.0, f64::max);
    let (low, high) = points().fold((f64::INFINITY, 0f64), |(low, high), &(_, y)| (low.min(y), high.max(y)));
    let margin = 0.04 * (high - low).max(0.1);
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..end, low - margin..high + margin)
        .map_err(failed)?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .bold_line_style(BLACK.mix(0.12))
        .axis_style(BLACK.mix(0.5))
        .label_style(("sans-serif", 13).into_font())
        .x_desc(axis)
        .y_desc("loss (nats per token)")
        .x_label_formatter(&|x| crate::report::thousands(*x as u64))
        .draw()
        .map_err(failed)?;
    for (i, curve) in curves.iter().enumerate() {
        draw_curve(&mut chart, curve, COLOURS[i % COLOURS.len()]).map_err(failed)?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .label_font(("sans-serif", 13).into_font())
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.2))
        .draw()
        .map_err(failed)?;
    area.present().map_err(failed)
}

fn draw_curve<B: DrawingBackend>(
    chart: &mut Chart<'_, B>,
    curve: &Curve,
    colour: RGBColor,
) -> Result<(), plotters::drawing::DrawingAreaErrorKind<B::ErrorType>> {
    let line = move |width| ShapeStyle { color: colour.to_rgba(), filled: true, stroke_width: width };
    chart.draw_series(LineSeries::new(averaged(&curve.faint), colour.mix(0.3).stroke_width(1)))?;
    chart
        .draw_series(LineSeries::new(curve.bold.iter().copied(), line(2)))?
        .label(&curve.name)
        .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], line(2)));
    chart.draw_series(curve.bold.iter().map(|&point| Circle::new(point, 3, line(1))))?;
    Ok(())
}

/// Means of neighbouring points, so that there are few.
fn averaged(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mean = |group: &[(f64, f64)]| {
        let n = group.len() as f64;
        (group.iter().map(|p| p.0).sum::<f64>() / n, group.iter().map(|p| p.1).sum::<f64>() / n)
    };
    points.chunks(points.len().div_ceil(FAINT_POINTS).max(1)).map(mean).collect()
}
