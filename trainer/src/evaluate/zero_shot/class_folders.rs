//! The class folders of a data set and their images, in the order of torchvision's `ImageFolder`.

use std::collections::{BTreeMap, HashSet};

use super::dataset_errors::DatasetErrors;

/// Where the class folders are.
pub(super) const TEST_FOLDER: &str = "test";
/// Extensions of images, case-insensitive: those that `ImageFolder` accepts and cnclip decodes.
const IMAGE_EXTENSIONS: [&str; 5] = [".jpg", ".jpeg", ".png", ".bmp", ".webp"];

/// One image of a data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassImage {
    /// Its name under the folder of the classes, such as `003/cat.jpg`.
    pub name: String,
    /// Its class.
    pub class: usize,
}

impl ClassImage {
    /// Its name under the data set's prefix.
    pub fn path(&self) -> String {
        format!("{TEST_FOLDER}/{}", self.name)
    }
}

/// Lists the images among the files of the class folders.
///
/// # Guarantees
/// Classes are in the order of their folders' names, the images of each in the order of subfolders, and then
/// of names. Hidden files and files outside the class folders are left out.
pub(super) fn list_class_images(
    found: &[String],
    names: &[String],
    mistakes: &mut DatasetErrors,
) -> Vec<ClassImage> {
    let mut folders = group_by_folder(found);
    check_image_files(&folders, mistakes);

    let ids: Vec<&str> = folders.keys().copied().collect();
    if ids.is_empty() {
        mistakes.push_error("There is no image in test/<class>/.");
    } else if !names.is_empty() {
        check_folder_names(&ids, names, mistakes);
    }

    let mut images = Vec::new();
    for (class, files) in folders.values_mut().enumerate() {
        files.sort_unstable();
        for file in files {
            let name = file.name.to_owned();
            images.push(ClassImage { name, class });
        }
    }

    images
}

/// A file in the folder of a class.
// Ordered by subfolder first: `ImageFolder` walks the folders in order and sorts the files of each.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct ClassFile<'a> {
    /// The folder inside that of the class; empty if there is none.
    subfolder: &'a str,
    /// Its name under the folder of the classes.
    name: &'a str,
}

/// The files of each class folder, ordered by its name, because `ImageFolder` numbers classes in that order.
fn group_by_folder(found: &[String]) -> BTreeMap<&str, Vec<ClassFile<'_>>> {
    let mut folders: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    for name in found {
        let Some((folder, rest)) = name.split_once('/') else {
            continue;
        };

        let (subfolder, file) = rest.rsplit_once('/').unwrap_or(("", rest));
        // macOS and Windows leave such files behind when folders are browsed or copied.
        if file.starts_with('.') || file == "Thumbs.db" {
            continue;
        }

        let files = folders.entry(folder).or_default();
        files.push(ClassFile { subfolder, name });
    }

    folders
}

fn check_image_files(folders: &BTreeMap<&str, Vec<ClassFile<'_>>>, mistakes: &mut DatasetErrors) {
    let names = folders.values().flatten().map(|file| file.name);
    let unknown: Vec<_> = names.filter(|name| !is_image(name)).collect();

    mistakes.push_with_examples(&unknown, |files| {
        let extensions = IMAGE_EXTENSIONS.join(" ");
        format!("These files are not {extensions} images: {files}. Convert them, or remove them.")
    });
}

fn is_image(file: &str) -> bool {
    let file = file.to_lowercase();
    IMAGE_EXTENSIONS.iter().any(|end| file.ends_with(end))
}

/// A folder of `test/`.
struct ClassFolder<'a> {
    name: &'a str,
    /// The number that its name is, if it is one.
    number: Option<usize>,
}

/// Compares the class folders with the names. Folders that are numbers must be those of the classes, and
/// sort as such: as text, 10 comes before 2.
fn check_folder_names(folders: &[&str], names: &[String], mistakes: &mut DatasetErrors) {
    let folders: Vec<_> = folders
        .iter()
        .map(|&name| ClassFolder {
            name,
            number: parse_class_number(name),
        })
        .collect();

    // None is a number, such as with WordNet ids: they match the names by order alone.
    if folders.iter().all(|folder| folder.number.is_none()) {
        check_folder_count(folders.len(), names.len(), mistakes);
        return;
    }

    let before = mistakes.0.len();
    check_all_numbered(&folders, mistakes);
    check_none_missing(&folders, names, mistakes);
    check_all_named(&folders, names.len(), mistakes);

    // A missing folder shifts all that follow: reported once, by its own message.
    if mistakes.0.len() == before {
        check_folder_order(&folders, mistakes);
    }
}

fn check_folder_count(folders: usize, names: usize, mistakes: &mut DatasetErrors) {
    if folders != names {
        mistakes.push_error(format!(
            "test/ has {folders} class folders, and label_cn.txt {names} names: there must be one of \
             each for every class."
        ));
    }
}

fn check_all_numbered(folders: &[ClassFolder<'_>], mistakes: &mut DatasetErrors) {
    let odd = folders.iter().filter(|folder| folder.number.is_none());
    let odd: Vec<_> = odd.map(|folder| folder.name).collect();

    mistakes.push_with_examples(&odd, |folders| {
        format!("test/ has folders that are no class numbers, as the others are: {folders}.")
    });
}

fn check_none_missing(folders: &[ClassFolder<'_>], names: &[String], mistakes: &mut DatasetErrors) {
    let found: HashSet<_> = folders.iter().filter_map(|folder| folder.number).collect();

    let digits = folders.iter().map(|folder| folder.name.len()).max();
    let digits = digits.unwrap_or(1);

    let mut missing = Vec::new();
    for (class, name) in names.iter().enumerate() {
        if !found.contains(&class) {
            missing.push(format!("{class:0digits$} ({name})"));
        }
    }

    mistakes.push_with_examples(&missing, |folders| {
        format!("test/ lacks the folders of classes: {folders}.")
    });
}

fn check_all_named(folders: &[ClassFolder<'_>], names: usize, mistakes: &mut DatasetErrors) {
    let mut nameless = Vec::new();
    for folder in folders {
        if folder.number.is_some_and(|number| number >= names) {
            nameless.push(folder.name);
        }
    }

    mistakes.push_with_examples(&nameless, |folders| {
        format!("label_cn.txt has {names} names, and so none for the folders {folders} of test/.")
    });
}

fn check_folder_order(folders: &[ClassFolder<'_>], mistakes: &mut DatasetErrors) {
    let numbers = folders.iter().map(|folder| folder.number);
    let expected = (0..folders.len()).map(Some);

    if !numbers.eq(expected) {
        mistakes.push_error(
            "The folders of test/ do not sort as their numbers do: write all of them with equally many \
             digits, such as 002 and 010.",
        );
    }
}

fn parse_class_number(folder: &str) -> Option<usize> {
    folder
        .bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| folder.parse().ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[&str], names: usize) -> (Vec<ClassImage>, String) {
        let files: Vec<_> = files.iter().map(|&file| file.to_owned()).collect();
        let names: Vec<_> = (0..names).map(|class| format!("名{class}")).collect();
        let mut mistakes = DatasetErrors::default();
        let pictures = list_class_images(&files, &names, &mut mistakes);

        (pictures, mistakes.0.join(" "))
    }

    #[test]
    fn pictures_are_in_the_order_of_image_folder() {
        let files = [
            "1/b.PNG",
            "0/z/a.jpg",
            "0/b.jpg",
            "0/B.jpeg",
            "0/.DS_Store",
            "notes.txt",
            "1/10.webp",
            "1/9.bmp",
            "0/Thumbs.db",
            "0/é.png",
        ];

        let (pictures, mistakes) = found(&files, 2);
        assert_eq!(mistakes, "");
        let order: Vec<_> = pictures
            .iter()
            .map(|file| (file.name.as_str(), file.class))
            .collect();

        let right = [
            ("0/B.jpeg", 0),
            ("0/b.jpg", 0),
            ("0/é.png", 0),
            ("0/z/a.jpg", 0),
            ("1/10.webp", 1),
            ("1/9.bmp", 1),
            ("1/b.PNG", 1),
        ];

        assert_eq!(order, right);
    }

    #[test]
    fn folders_that_do_not_fit_the_names_are_told() {
        let table: [(&[&str], usize, &str); 8] = [
            (&[], 2, "There is no image in test/<class>/."),
            (
                &["0/a.jpg", "2/a.jpg"],
                3,
                "lacks the folders of classes: 1 (名1).",
            ),
            (
                &["000/a.jpg"],
                2,
                "lacks the folders of classes: 001 (名1).",
            ),
            (
                &["1/a.jpg", "2/a.jpg"],
                2,
                "none for the folders 2 of test/",
            ),
            (
                &["n01/a.jpg", "n02/a.jpg"],
                3,
                "2 class folders, and label_cn.txt 3 names",
            ),
            (
                &["0/a.jpg", "1/a.jpg", "old/a.jpg"],
                2,
                "no class numbers, as the others are: old.",
            ),
            (
                &["0/a.txt", "1/a.tif"],
                2,
                "images: 0/a.txt, 1/a.tif. Convert them",
            ),
            (
                &["0/a.jpg", "1/.keep"],
                2,
                "lacks the folders of classes: 1 (名1).",
            ),
        ];

        for (files, names, expected) in table {
            let (_, mistakes) = found(files, names);
            assert!(mistakes.contains(expected), "{mistakes}");
        }

        let files: Vec<_> = (0..11).map(|class| format!("{class}/a.jpg")).collect();
        let files: Vec<_> = files.iter().map(String::as_str).collect();
        assert!(
            found(&files, 11)
                .1
                .contains("do not sort as their numbers do")
        );

        assert_eq!(found(&["n01/a.jpg", "n02/a.jpg"], 2).1, "");
    }
}
