//! WebDataset: tar archives in which the files of one sample share a name and differ in what follows its first dot.

use std::io::Read;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::container::ranges::{Archive, Place, Ranges, Section};
use super::container::tar::{Member, members};
use super::{Collection, Error, Listing, Transform, is_image_name};

/// Longest class or description that is read: an integer, a small JSON object.
const MAX_TEXT: u64 = 1 << 20;

/// One sample of an archive.
#[derive(Debug)]
pub(super) struct Sample {
    /// The image's path in its archive.
    pub(super) name: String,
    /// The number in `.cls`, or the label in `.json`.
    pub(super) label: Option<i64>,
    /// The original file name, where `.json` tells it.
    pub(super) file_name: Option<String>,
    place: Place,
}

/// The archives' samples, in the order in which they lie.
#[derive(Debug)]
pub(super) struct Samples {
    pub(super) samples: Vec<Sample>,
    archives: Vec<std::sync::Arc<Archive>>,
}

impl Samples {
    /// Lists the archives, in the order given.
    pub(super) fn list(files: &[PathBuf]) -> Result<Self, Error> {
        let archives: Vec<_> = files
            .iter()
            .map(|path| Archive::open(path))
            .collect::<Result<_, _>>()?;
        let each: Vec<Vec<Sample>> = archives
            .par_iter()
            .enumerate()
            .map(|(number, archive)| {
                let all = members(Section::whole(archive))?;
                let groups = all.chunk_by(|a, b| stem(&a.name) == stem(&b.name));
                groups
                    .filter_map(|group| sample(archive, number, group).transpose())
                    .collect()
            })
            .collect::<Result<_, Error>>()?;
        let samples: Vec<Sample> = each.into_iter().flatten().collect();
        match files.first() {
            Some(first) if samples.is_empty() => Err(Error::NoImages { path: first.clone() }),
            _ => Ok(Self { samples, archives }),
        }
    }

    pub(super) fn ranges(&self) -> Ranges {
        Ranges {
            archives: self.archives.clone(),
            places: self.samples.iter().map(|sample| sample.place).collect(),
        }
    }
}

/// Opens WebDataset archives: the class of a sample is its `.cls`, all are of one class where no sample has any.
///
/// # Errors
/// When an archive is damaged, there is no image, or only some samples have a class.
pub(super) fn open(files: &[PathBuf]) -> Result<Collection, Error> {
    let samples = Samples::list(files)?;
    let labelled = samples.samples.iter().any(|sample| sample.label.is_some());
    let mut listing = Listing::default();
    for sample in &samples.samples {
        let label = match sample.label {
            Some(label) => super::to_label(label, &sample.name)?,
            None if labelled => {
                return Err(Error::Unlabelled {
                    key: sample.name.clone(),
                });
            }
            None => 0,
        };
        listing.push(&sample.name, label);
    }
    let class_names = if labelled {
        super::numbered_classes(&listing)
    } else {
        vec!["all".to_owned()]
    };
    Ok(Collection {
        container: "WebDataset archives",
        listing: listing.in_storage_order()?,
        class_names,
        transform: Transform::AdmCenterCrop,
        images: Box::new(samples.ranges()),
    })
}

/// The archives of a folder, sorted, or the one that `path` names.
pub(super) fn archives(path: &Path, split: &str) -> Result<Vec<PathBuf>, Error> {
    super::files_of_split(path, "tar", split)
}

/// What the names of a sample's files have in common: everything before the first dot of the last part.
fn stem(name: &str) -> &str {
    let last = name.rfind('/').map_or(0, |slash| slash + 1);
    name[last..].find('.').map_or(name, |dot| &name[..last + dot])
}

fn sample(
    archive: &std::sync::Arc<Archive>,
    number: usize,
    group: &[Member],
) -> Result<Option<Sample>, Error> {
    let Some(image) = group.iter().find(|member| is_image_name(&member.name)) else {
        return Ok(None);
    };
    let text = |suffix: &str| {
        let wanted = |member: &&Member| member.name[stem(&member.name).len()..].eq_ignore_ascii_case(suffix);
        let Some(member) = group.iter().find(wanted) else {
            return Ok(None);
        };
        let mut text = String::new();
        let section = Section::new(archive, member.offset, member.length.min(MAX_TEXT));
        section.take(MAX_TEXT).read_to_string(&mut text)?;
        Ok::<_, Error>(Some(text))
    };
    let class = text(".cls")?.map(|text| {
        text.trim().parse::<i64>().map_err(|_| Error::Label {
            key: image.name.clone(),
            found: text.trim().chars().take(40).collect(),
        })
    });
    let json: serde_json::Value = text(".json")?
        .and_then(|text| serde_json::from_str(&text).ok())
        .unwrap_or_default();
    let first = |names: &[&str]| names.iter().find_map(|name| json.get(name)).cloned();
    Ok(Some(Sample {
        name: image.name.clone(),
        label: class
            .transpose()?
            .or_else(|| first(&["label", "cls", "class"])?.as_i64()),
        file_name: first(&["filename", "file_name", "path"])
            .and_then(|value| Some(value.as_str()?.to_owned())),
        place: Place {
            archive: number as u32,
            length: u32::try_from(image.length).map_err(|_| Error::Label {
                key: image.name.clone(),
                found: format!("an image of {} bytes", image.length),
            })?,
            offset: image.offset,
        },
    }))
}

#[cfg(test)]
mod tests {
    use super::stem;

    #[test]
    fn a_sample_is_named_by_what_stands_before_the_first_dot_of_the_last_part() {
        for (name, expected) in [
            ("a.b/x.y.jpg", "a.b/x"),
            ("x.cls", "x"),
            ("d/x", "d/x"),
            ("d.e/x", "d.e/x"),
        ] {
            assert_eq!(stem(name), expected);
        }
    }
}
