//! What the classifier of the shapes says of the quickstart's images.

use preprocess::console::Printer;
use preprocess::dataset::demo;
use preprocess::image::RgbImage;

use super::{Args, REFERENCE_IMAGES, SIZE, Set, TRAINED};
use crate::classifier::{self, Classifier, Judgement};
use crate::metric::fid::frechet_distance;
use crate::neighbours;
use crate::report::Picture;

/// Training images, as the classifier sees them.
pub(super) struct Seen {
    images: Vec<RgbImage>,
    judgement: Judgement,
}

impl Seen {
    pub(super) fn new(args: &Args, classifier: &Classifier) -> anyhow::Result<Self> {
        let drawn = (0..REFERENCE_IMAGES.min(args.pictures)).map(|id| demo::draw(args.seed, id, SIZE));
        let (images, labels): (Vec<RgbImage>, Vec<usize>) = drawn.unzip();
        let judgement = classifier.judge(&images, &labels)?;
        Ok(Self { images, judgement })
    }
}

/// Whether the trained model's samples are copies of training images: in words, and the nearest as a picture.
pub(super) fn copies(
    classifier: &Classifier,
    seen: &Seen,
    sets: &[Set],
) -> anyhow::Result<(String, Option<Picture>)> {
    let Some(samples) = sets.iter().find(|set| set.name == TRAINED) else {
        return Ok((String::new(), None));
    };
    let features = classifier.features(&samples.images)?;
    let known = seen.judgement.features.as_flattened();
    let (dim, shown) = (classifier::FEATURES, samples.images.len());
    let Some(found) = neighbours::find(known, features.as_flattened(), dim, shown)? else {
        return Ok((String::new(), None));
    };
    let pick = |numbers: &[usize]| {
        Ok(numbers
            .iter()
            .map(|&number| seen.images[number].clone())
            .collect())
    };
    let picture = neighbours::picture(&found, &samples.images, pick)?;
    Ok((format!("<p><i>Are they copies?</i> {found}</p>"), picture))
}

/// Accuracy and Frechet distance of every set, printed, and as an HTML table.
pub(super) fn scores(
    classifier: &Classifier,
    seen: &Seen,
    sets: &[Set],
    printer: &mut Printer,
) -> anyhow::Result<String> {
    let reference = seen.judgement.stats.clone().finish()?;
    let heading = ["", "class accuracy", "Frechet distance"];
    printer.say(format_args!(
        "{:<32} {:>14} {:>17}",
        heading[0], heading[1], heading[2]
    ));
    let mut table = format!(
        "<p>A DiffuSSM that learned ten kinds of coloured shapes from scratch. <i>Class accuracy</i>: how often the \
         embedded classifier sees the class that was asked for. <i>Frechet distance</i>: in the classifier's 64 features, \
         to the training images; it compares with nothing but the other numbers of this page. Each class has a hue of \
         its own, so these numbers say more of colours than of shapes: look at the pictures, too. Edges take longer than \
         colours (<code>--seconds</code>).</p>\n<table><tr><th></th><th>{}</th><th>{}</th></tr>",
        heading[1], heading[2]
    );
    let mut distances = Vec::new();
    for set in sets {
        let Judgement { accuracy, stats, .. } = classifier.judge(&set.images, &set.labels)?;
        let distance = frechet_distance(&reference, &stats.finish()?)?;
        distances.push(distance);
        printer.say(format_args!("{:<32} {accuracy:>14.3} {distance:>17.3}", set.name));
        table.push_str(&format!(
            "<tr><td>{}</td><td>{accuracy:.3}</td><td>{distance:.3}</td></tr>",
            set.name
        ));
    }
    table.push_str("</table>");
    if let [untrained, trained, ..] = distances[..] {
        printer.say(format_args!(
            "the trained model is {:.1} times nearer than the untrained one",
            untrained / trained.max(f64::MIN_POSITIVE)
        ));
    }
    Ok(table)
}
