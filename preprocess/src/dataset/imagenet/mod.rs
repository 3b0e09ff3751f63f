//! ImageNet (ILSVRC 2012) in every container that it is handed around in, always with the same keys and labels.
//!
//! A key is `<WordNet id>/<file name>`, as in the folders that ILSVRC's archives unpack to; a class is the rank of its
//! WordNet id among those that are there, bytewise, as in ADM's and DiT's loaders, or what a label column says.

mod detect;
mod devkit;
mod mat;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::container::Container;
use super::container::files::{Files, Layout};
use super::container::ranges::{Archive, Place as Range, Ranges, Section};
use super::container::tar::{Member, members, nested};
use super::webdataset::Samples;
use super::{Collection, Error, Listing, Transform, folder, is_image_name, stem, to_label};

use detect::Place;

/// The WordNet ids of the 1000 classes, in label order.
const SYNSETS: &str = include_str!("../../../assets/imagenet/synsets.txt");

/// Opens what lies at `path`, a file or a folder.
///
/// # Errors
/// When nothing that is known lies there, or it is damaged.
pub(super) fn open(path: &Path, split: &str) -> Result<Collection, Error> {
    match detect::find(path, split)? {
        Place::ClassFolders(folder) => {
            let mut found = folder::open(&folder)?;
            found.container = "class folders";
            Ok(found)
        }
        Place::FlatFolder(folder) => {
            let classes = devkit::find(&beside(path, &folder))?;
            let mut listing = Listing::default();
            for name in folder::names(&folder, folder::Kind::Images)? {
                listing.push(&classified(&classes, &name)?, 0);
            }
            let class_names = rank_classes(&mut listing);
            let (listing, _) = listing.in_canonical_order()?;
            Ok(collection(
                "a folder of images with the devkit's classes",
                listing,
                class_names,
                Files::new(&folder, Layout::Flat),
            ))
        }
        Place::ClassTars(tar) => {
            let archive = Archive::open(&tar)?;
            let mut inner = members(Section::whole(&archive))?;
            inner.retain(|member| member.name.ends_with(".tar"));
            let classes = nested(&archive, &inner)?;
            let names = inner.iter().map(|member| stem(Path::new(&member.name)));
            from_tars(
                "a tar archive of class archives",
                vec![archive],
                names.zip(classes).map(|(name, all)| (0, name, all)),
            )
        }
        Place::FolderOfClassTars(tars) => {
            let archives: Vec<Arc<Archive>> = tars
                .iter()
                .map(|tar| Archive::open(tar))
                .collect::<Result<_, _>>()?;
            let mut classes = Vec::new();
            for (number, archive) in archives.iter().enumerate() {
                classes.push((
                    number as u32,
                    stem(&archive.path),
                    members(Section::whole(archive))?,
                ));
            }
            from_tars("a folder of class archives", archives, classes)
        }
        Place::FlatTar(tar) => {
            let archive = Archive::open(&tar)?;
            let classes = devkit::find(&beside(path, &tar))?;
            let mut all = BTreeMap::<String, Vec<Member>>::new();
            for member in members(Section::whole(&archive))? {
                if is_image_name(&member.name) {
                    let key = classified(&classes, file_name(&member.name))?;
                    all.entry(folder_of(&key).to_owned()).or_default().push(member);
                }
            }
            let all = all.into_iter().map(|(class, members)| (0, class, members));
            from_tars(
                "a tar archive of images with the devkit's classes",
                vec![archive],
                all,
            )
        }
        #[cfg(feature = "parquet")]
        Place::Parquet(files) => parquet(files),
        #[cfg(not(feature = "parquet"))]
        Place::Parquet(files) => Err(super::open::no_parquet(&files[0])),
        Place::WebDataset(files) => webdataset(&files),
    }
}

/// Parquet files; the label column is trusted.
#[cfg(feature = "parquet")]
pub(super) fn parquet(files: Vec<PathBuf>) -> Result<Collection, Error> {
    let mut found = super::parquet::open(files)?;
    let mut listing = Listing::default();
    for position in 0..found.listing.len() {
        let label = found.listing.label(position);
        listing.push(&key(found.listing.key(position), label), label as i32);
    }
    found.class_names = named_classes(&listing, found.class_names.len());
    found.listing = listing.in_storage_order()?;
    Ok(found)
}

fn webdataset(files: &[PathBuf]) -> Result<Collection, Error> {
    let samples = Samples::list(files)?;
    let mut listing = Listing::default();
    for sample in &samples.samples {
        let Some(label) = sample.label else {
            return Err(Error::Unlabelled {
                key: sample.name.clone(),
            });
        };
        let label = to_label(label, &sample.name)?;
        let name = sample.file_name.as_deref().unwrap_or(&sample.name);
        listing.push(&key(name, i64::from(label)), label);
    }
    let class_names = named_classes(&listing, 0);
    let listing = listing.in_storage_order()?;
    Ok(collection(
        "WebDataset archives",
        listing,
        class_names,
        samples.ranges(),
    ))
}

/// Images of class archives: (archive, class, files) each.
fn from_tars(
    container: &'static str,
    archives: Vec<Arc<Archive>>,
    classes: impl IntoIterator<Item = (u32, String, Vec<Member>)>,
) -> Result<Collection, Error> {
    let (mut listing, mut places) = (Listing::default(), Vec::new());
    for (archive, class, files) in classes {
        for file in files.iter().filter(|file| is_image_name(&file.name)) {
            let name = file_name(&file.name);
            listing.push(&format!("{class}/{name}"), 0);
            places.push(Range {
                archive,
                offset: file.offset,
                length: u32::try_from(file.length).map_err(|_| Error::Label {
                    key: file.name.clone(),
                    found: format!("an image of {} bytes", file.length),
                })?,
            });
        }
    }
    if listing.is_empty() {
        let path = archives
            .first()
            .map(|archive| archive.path.clone())
            .unwrap_or_default();
        return Err(Error::NoImages { path });
    }
    let class_names = rank_classes(&mut listing);
    let (listing, order) = listing.in_canonical_order()?;
    let ranges = Ranges { archives, places }.reordered(&order);
    Ok(collection(container, listing, class_names, ranges))
}

fn collection(
    container: &'static str,
    listing: Listing,
    class_names: Vec<String>,
    images: impl Container + 'static,
) -> Collection {
    Collection {
        container,
        listing,
        class_names,
        transform: Transform::AdmCenterCrop,
        images: Box::new(images),
    }
}

/// Labels images by the ranks of the folders in their keys; answers the folders.
fn rank_classes(listing: &mut Listing) -> Vec<String> {
    let found: BTreeSet<String> = (0..listing.len())
        .map(|i| folder_of(listing.key(i)).to_owned())
        .collect();
    let ranks: BTreeMap<&str, i32> = found
        .iter()
        .enumerate()
        .map(|(i, name)| (name.as_str(), i as i32))
        .collect();
    listing.relabel(|position, listing| ranks.get(folder_of(listing.key(position))).copied().unwrap_or(0));
    found.into_iter().collect()
}

/// Names for labels that were given: the folders in the keys, and where none is of a class, the class of ImageNet.
fn named_classes(listing: &Listing, at_least: usize) -> Vec<String> {
    let mut names = BTreeMap::new();
    for position in 0..listing.len() {
        names
            .entry(listing.label(position) as usize)
            .or_insert_with(|| folder_of(listing.key(position)).to_owned());
    }
    let count = names
        .last_key_value()
        .map_or(0, |(&last, _)| last + 1)
        .max(at_least);
    let missing = |label: usize| if count == 1000 { synset(label as i64) } else { None };
    (0..count)
        .map(|label| {
            names
                .get(&label)
                .cloned()
                .or_else(|| missing(label))
                .unwrap_or_else(|| label.to_string())
        })
        .collect()
}

/// The key of an image that is called `name` somewhere and has a label.
///
/// Hugging Face's files put the class behind the name (`n01440764_10026_n01440764.JPEG`), WebDataset's change the
/// extension; validation images do not tell their class otherwise.
fn key(name: &str, label: i64) -> String {
    let parent = name.rsplit('/').nth(1).filter(|folder| is_wnid(folder));
    let name = file_name(name);
    let (stem, extension) = name.rsplit_once('.').unwrap_or((name, "JPEG"));
    let extension = if ["jpg", "jpeg"]
        .iter()
        .any(|jpeg| extension.eq_ignore_ascii_case(jpeg))
    {
        "JPEG"
    } else {
        extension
    };
    let (stem, suffix) = match stem.rsplit_once('_') {
        Some((rest, last)) if is_wnid(last) && rest.contains('_') => (rest, Some(last)),
        _ => (stem, None),
    };
    let prefix = stem.split('_').next().filter(|prefix| is_wnid(prefix));
    let class = prefix.or(suffix).or(parent).map(str::to_owned);
    let class = class
        .or_else(|| synset(label))
        .unwrap_or_else(|| label.to_string());
    format!("{class}/{stem}.{extension}")
}

fn classified(classes: &devkit::Classes, name: &str) -> Result<String, Error> {
    let class = classes
        .of(name)
        .ok_or_else(|| Error::Unlabelled { key: name.to_owned() })?;
    Ok(format!("{class}/{name}"))
}

fn synset(label: i64) -> Option<String> {
    SYNSETS
        .lines()
        .nth(usize::try_from(label).ok()?)
        .map(str::to_owned)
}

/// Whether `name` is a WordNet id: `n` and eight digits.
fn is_wnid(name: &str) -> bool {
    name.strip_prefix('n')
        .is_some_and(|digits| digits.len() == 8 && digits.bytes().all(|byte| byte.is_ascii_digit()))
}

fn folder_of(key: &str) -> &str {
    key.split('/').next().unwrap_or(key)
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Where the devkit may lie: in the folder that was named, beside the images, one above them.
fn beside(named: &Path, images: &Path) -> Vec<PathBuf> {
    let mut all = vec![named.to_owned()];
    all.extend(images.ancestors().skip(1).take(4).map(Path::to_owned));
    all.retain(|folder| folder.is_dir());
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_the_class_folders() {
        for (name, label, expected) in [
            (
                "n01440764_10026_n01440764.JPEG",
                0,
                "n01440764/n01440764_10026.JPEG",
            ),
            ("n01440764_10026.JPEG", 0, "n01440764/n01440764_10026.JPEG"),
            ("n01440764_10026.jpg", 0, "n01440764/n01440764_10026.JPEG"),
            (
                "n01440764/n01440764_10026.JPEG",
                0,
                "n01440764/n01440764_10026.JPEG",
            ),
            (
                "ILSVRC2012_val_00000001_n01751748.JPEG",
                65,
                "n01751748/ILSVRC2012_val_00000001.JPEG",
            ),
            (
                "shard/ILSVRC2012_val_00000001.jpg",
                65,
                "n01751748/ILSVRC2012_val_00000001.JPEG",
            ),
            ("x/a.png", 5000, "5000/a.png"),
        ] {
            assert_eq!(key(name, label), expected);
        }
    }

    #[test]
    fn the_classes_are_sorted_and_a_thousand() {
        let all: Vec<&str> = SYNSETS.lines().collect();
        assert_eq!(
            (all.len(), all[0], all[1], all[999]),
            (1000, "n01440764", "n01443537", "n15075141")
        );
        assert!(all.is_sorted() && all.iter().all(|name| is_wnid(name)));
    }
}
