package attempts

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"github.com/srpo-dev/srpo/host/media"
	"github.com/srpo-dev/srpo/plugins"
)

// ClipsDir is the subfolder of a run folder with the frames of its episodes (run.keep_clips), each in
// NAME.npz with its label in NAME.json.
const ClipsDir = "clips"

// EmbeddingsDir is the subfolder of a run folder with the embeddings of its episodes (run.keep_embeddings),
// one list per iteration.
const EmbeddingsDir = "embeddings"

// labelFiles are the names of a labels file.
var labelFiles = []string{"labels.json", "labels.jsonl", "labels.csv"}

// readFolder reads a folder of videos, or the run folder of `srpo run` or `srpo eval`.
func readFolder(dir string) (*List, error) {
	has := func(name string) bool { _, err := os.Stat(filepath.Join(dir, name)); return err == nil }
	switch {
	case has("manifest.json") && has("srpo.toml"):
		return readRun(dir, "run", "srpo run --set run.keep_clips=all (or run.keep_embeddings=true) keeps every "+
			"episode")
	case has("eval.json"):
		return readRun(dir, "evaluation", "srpo eval --set run.keep_clips=all keeps every episode")
	}
	return readVideos(dir)
}

// readRun reads the clips of a run folder or, without clips, the embeddings, or else the few GIFs for its page.
func readRun(dir, form, hint string) (*List, error) {
	hasFiles := func(sub string) bool {
		list, err := os.ReadDir(filepath.Join(dir, sub))
		return err == nil && len(list) > 0
	}
	var list *List
	var err error
	switch {
	case hasFiles(ClipsDir):
		list, err = readVideos(filepath.Join(dir, ClipsDir))
	case hasFiles(EmbeddingsDir):
		list, err = readEmbeddings(filepath.Join(dir, EmbeddingsDir))
	case hasFiles("episodes"):
		if list, err = readVideos(filepath.Join(dir, "episodes")); err == nil {
			list.Warnings = append(list.Warnings, fmt.Sprintf("the folder has no clips, so its %d GIFs of at most "+
				"60 frames and 160 pixels are scored; %s", len(list.Attempts), hint))
		}
	default:
		return nil, plugins.Errorf(plugins.NotFound, "the %s folder has no episodes", form).WithPlace("%s", dir).
			WithHint("%s", hint)
	}
	if err == nil {
		list.Form = form
	}
	return list, err
}

// readEmbeddings reads the lists of all iterations.
func readEmbeddings(dir string) (*List, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.json*"))
	if err != nil {
		return nil, plugins.AsError(err)
	}
	sort.Strings(files)
	all := &List{}
	for _, f := range files {
		list, err := readListFile(f)
		if err != nil {
			return nil, err
		}
		all.Attempts, all.Warnings = append(all.Attempts, list.Attempts...), append(all.Warnings, list.Warnings...)
		if list.Encoder != "" {
			all.Encoder = list.Encoder
		}
	}
	return all, nil
}

// readVideos reads a folder of videos with a labels file, or with a .json file of the same name per video.
func readVideos(dir string) (*List, error) {
	videos, err := findVideos(dir)
	if err != nil {
		return nil, err
	}
	list := &List{}
	rows, from, err := readLabels(dir, videos, list)
	if err != nil {
		return nil, err
	}
	list.Form = "folder"
	if from == "" {
		what := "no labels file"
		if len(videos) == 0 {
			what = "no video and no labels file"
		}
		return nil, plugins.Errorf(plugins.Invalid, "the folder has %s", what).WithPlace("%s", dir).
			WithHint(`write a labels.csv there: a first line "file,task,success", then one line per video, ` +
				`such as "a.mp4,stack,true"`)
	}
	labelled := map[string]bool{}
	found := 0
	for _, r := range rows {
		a := r.attempt()
		name, several := match(r, videos)
		switch {
		case r.Embedding != nil && r.Video == "":
			a.Embedding, a.Problem = r.Embedding.read(dir)
			found++
		case len(several) > 1:
			a.Problem = "several videos have this name: " + few(several)
		case name == "" && r.Video == "":
			a.Problem = "no video in the folder has this name"
		case name == "":
			// The file can be elsewhere. If it is not a video, opening it fails.
			var err error
			if a.Video, err = findFile(relativeTo(filepath.Join(dir, labelFiles[0]), r.Video)); err != nil {
				a.Video, a.Problem = "", "the video does not exist: "+r.Video
			} else {
				found++
			}
		case labelled[name]:
			return nil, plugins.Errorf(plugins.Invalid, "%s has two labels", name).WithPlace("%s", r.place).
				WithHint("remove one of them")
		default:
			labelled[name] = true
			a.Video = filepath.Join(dir, filepath.FromSlash(name))
			found++
		}
		list.Attempts = append(list.Attempts, a)
	}
	if found == 0 && len(rows) > 0 {
		have := "the folder has no video"
		if len(videos) > 0 {
			have = fmt.Sprintf("the folder has %s", few(videos))
		}
		return nil, plugins.Errorf(plugins.Invalid, "none of the %d labels names a video in the folder, for example "+
			"%s; %s", len(rows), nameOf(rows[0]), have).WithPlace("%s", from).
			WithHint("give paths relative to the folder, such as a.mp4")
	}
	list.unlabelled(dir, rows, videos, labelled)
	return list, nil
}

// unlabelled adds the videos without a label.
func (l *List) unlabelled(dir string, rows []entry, videos []string, labelled map[string]bool) {
	tasks := map[string]bool{}
	for _, r := range rows {
		tasks[r.Task] = true
	}
	ids := map[string]bool{}
	for _, a := range l.Attempts {
		ids[a.ID] = true
	}
	var names []string
	for _, v := range videos {
		if labelled[v] {
			continue
		}
		names = append(names, v)
		a := Attempt{ID: v, Task: defaultTask, Video: filepath.Join(dir, filepath.FromSlash(v))}
		if ids[a.ID] {
			a.ID += " (without a label)"
		}
		switch {
		case len(tasks) == 1 && len(rows) > 0:
			a.Task = rows[0].Task
		case len(tasks) > 1:
			a.Task, a.Problem = "", "its task is not known, because it has no label"
		}
		l.Attempts = append(l.Attempts, a)
	}
	if len(names) > 0 {
		what := "scored against the others"
		if len(tasks) > 1 {
			what = "left out, because their task is not known"
		}
		l.Warnings = append(l.Warnings, fmt.Sprintf("videos without a label are %s: %s", what, few(names)))
	}
}

// few joins at most three names.
func few(names []string) string {
	if len(names) > 3 {
		return strings.Join(names[:3], ", ") + fmt.Sprintf(" and %d more", len(names)-3)
	}
	return strings.Join(names, ", ")
}

func nameOf(r entry) string {
	if r.Video != "" {
		return r.Video
	}
	return r.ID
}

// findVideos returns the videos below a folder as slash-separated paths: files with the extension of a
// video, and folders of pictures.
func findVideos(dir string) ([]string, error) {
	var out []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil || rel == "." {
			return err
		}
		switch {
		case strings.HasPrefix(d.Name(), "."):
			if d.IsDir() {
				return fs.SkipDir
			}
		case d.IsDir():
			if strings.Count(rel, string(filepath.Separator)) > 4 {
				return fs.SkipDir
			}
			if d.Name() == "trajectories" { // observations and actions of the same episodes
				if _, err := os.Stat(filepath.Join(path, "space.json")); err == nil {
					return fs.SkipDir
				}
			}
			if hasPictures(path) {
				out = append(out, filepath.ToSlash(rel))
				return fs.SkipDir
			}
		case media.IsVideo(d.Name()):
			out = append(out, filepath.ToSlash(rel))
		}
		return nil
	})
	if err != nil {
		return nil, plugins.Errorf(plugins.Invalid, "the folder cannot be read: %w", err).WithPlace("%s", dir).
			WithHint("check its permissions")
	}
	sort.Slice(out, func(a, b int) bool { return media.NaturalLess(out[a], out[b]) })
	return out, nil
}

// hasPictures reports whether a folder is one attempt: it contains png or jpeg files, or several webp files that are
// not animations.
func hasPictures(dir string) bool {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	still, animated := 0, false
	for _, e := range entries {
		switch {
		case e.IsDir() || strings.HasPrefix(e.Name(), "."):
		case media.IsPicture(e.Name()):
			return true
		case media.IsStillWebP(filepath.Join(dir, e.Name())):
			still++
		case media.IsVideo(e.Name()):
			animated = true
		}
	}
	return still > 1 && !animated
}

// readLabels reads a labels file, or the .json file of each video. from is the path of the labels; "" if
// there are none.
func readLabels(dir string, videos []string, list *List) (rows []entry, from string, err error) {
	var files []string
	for _, name := range labelFiles {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			files = append(files, name)
		}
	}
	if len(files) > 1 {
		return nil, "", plugins.Errorf(plugins.Invalid, "there are %s", strings.Join(files, " and ")).
			WithPlace("%s", dir).WithHint("keep one of them")
	}
	if len(files) == 1 {
		from = filepath.Join(dir, files[0])
		read, rows, err := readEntries(from)
		if err != nil {
			return nil, "", err
		}
		*list = *read
		return rows, from, nil
	}
	for _, v := range videos {
		path, _ := findFile(filepath.Join(dir, strings.TrimSuffix(filepath.FromSlash(v), filepath.Ext(v))+".json"))
		data, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		var row map[string]any
		if err := decode(path, data, &row); err != nil {
			return nil, "", err
		}
		delete(row, "index") // in the .json of a run folder
		row["video"] = v
		delete(row, "file")
		e, err := (&List{}).entry(path, row)
		if err != nil {
			return nil, "", err
		}
		if !e.hasTask {
			e.Task = defaultTask
		}
		rows, from = append(rows, e), dir
	}
	return rows, from, nil
}

// match returns the video of a label: by its path, or by its name without extension, in any Unicode form. If several
// have that name, it returns them instead.
func match(r entry, videos []string) (video string, several []string) {
	name := filepath.ToSlash(filepath.Clean(nameOf(r)))
	if slices.Contains(videos, name) {
		return name, nil
	}
	for _, v := range videos {
		if sameName(v, name) {
			return v, nil
		}
	}
	for _, v := range videos {
		if sameName(strings.TrimSuffix(v, filepath.Ext(v)), name) {
			several = append(several, v)
		}
	}
	if len(several) == 1 {
		return several[0], nil
	}
	return "", several
}

// Label is the content of the .json file of a clip in a run folder.
type Label struct {
	ID       string   `json:"id"`
	Task     string   `json:"task"`
	Success  bool     `json:"success"`
	Progress *float64 `json:"progress,omitempty"`
	// Iteration, Steps and RecordEvery are for information and are not read back.
	Iteration   int `json:"iteration"`
	Steps       int `json:"steps"`
	RecordEvery int `json:"record_every,omitempty"`
}

// Marshal returns the label as its file contains it. A progress that is not finite is left out.
func (l Label) Marshal() ([]byte, error) {
	if l.Progress != nil && (math.IsNaN(*l.Progress) || math.IsInf(*l.Progress, 0)) {
		l.Progress = nil
	}
	data, err := json.MarshalIndent(l, "", "  ")
	return append(data, '\n'), err
}

// SaveClip writes an episode's frames, uint8 [T, H, W, 3], and its label to NAME.npz and NAME.json in
// [ClipsDir]. save writes one file of a folder. The label is written last, because a clip without a label
// is not read.
func SaveClip(name string, frames plugins.Tensor, label Label, save func(folder, name string,
	data []byte) error) error {
	var npz bytes.Buffer
	if err := media.EncodeNPZ(&npz, "frames", frames); err != nil {
		return plugins.AsError(err).WithPlace("episode %s", label.ID)
	}
	text, err := label.Marshal()
	if err != nil {
		return plugins.Errorf(plugins.Internal, "the label of %s: %w", label.ID, err)
	}
	if err := save(ClipsDir, name+".npz", npz.Bytes()); err != nil {
		return err
	}
	return save(ClipsDir, name+".json", text)
}
