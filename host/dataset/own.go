package dataset

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/srpo-dev/srpo/host/attempts"
	"github.com/srpo-dev/srpo/host/media"
	"github.com/srpo-dev/srpo/host/store"
	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/policy"
)

const (
	// Dir is the folder of trajectories in a run folder or a recording: NAME.npz and NAME.json per episode, and
	// [SpaceFile]. The clip of the same NAME is in attempts.ClipsDir.
	Dir = "trajectories"
	// SpaceFile describes the arrays.
	SpaceFile = "space.json"
	format    = 1
)

// Names of the arrays in a trajectory's .npz. Images are called imageArray + camera.
const (
	actionsArray = "actions"
	proprioArray = "proprio"
	imageArray   = "image."
)

// spaceJSON is the content of [SpaceFile].
type spaceJSON struct {
	Format       int        `json:"format"`
	Env          string     `json:"env"`
	Action       actionJSON `json:"action"`
	Proprio      []string   `json:"proprio"`
	Cameras      []string   `json:"cameras"`
	RecordCamera string     `json:"record_camera"`
	// RecordEvery is in env steps.
	RecordEvery int `json:"record_every"`
}

type actionJSON struct {
	Names   []string  `json:"names"`
	Low     []float32 `json:"low"`
	High    []float32 `json:"high"`
	Meaning string    `json:"meaning"`
	RateHz  float64   `json:"rate_hz"`
}

// episodeJSON is the content of a trajectory's NAME.json.
type episodeJSON struct {
	ID          string `json:"id"`
	Task        string `json:"task"`
	Instruction string `json:"instruction"`
	Success     *bool  `json:"success"`
	Steps       int    `json:"steps"`
}

// EncodeSpace returns the content of [SpaceFile]. recordEvery is the number of env steps between two frames
// of a clip.
func EncodeSpace(s Space, recordEvery int) ([]byte, error) {
	a := s.Action
	data, err := json.MarshalIndent(spaceJSON{format, s.Env, actionJSON{a.Names, a.Low, a.High, a.Meaning,
		float64(a.RateHz)}, s.Proprio, s.Cameras, s.RecordCamera, recordEvery}, "", "  ")
	if err != nil {
		return nil, plugins.Errorf(plugins.Internal, "the space of trajectories: %w", err)
	}
	return append(data, '\n'), nil
}

// Encode returns the content of a trajectory's .npz and .json. The .json must be written last, because an
// .npz without it is not read.
func Encode(task string, d policy.Demonstration) (npz, label []byte, err error) {
	arrays := map[string]plugins.Tensor{actionsArray: d.Actions}
	if !d.Proprio.IsZero() {
		arrays[proprioArray] = d.Proprio
	}
	for camera, img := range d.Images {
		arrays[imageArray+camera] = img
	}
	var b bytes.Buffer
	if err := media.EncodeArrays(&b, arrays); err != nil {
		return nil, nil, plugins.AsError(err).WithPlace("episode %s", d.ID)
	}
	label, err = json.MarshalIndent(episodeJSON{d.ID, task, d.Instruction, &d.Success, d.Actions.Shape[0]}, "", "  ")
	if err != nil {
		return nil, nil, plugins.Errorf(plugins.Internal, "the label of %s: %w", d.ID, err)
	}
	return b.Bytes(), append(label, '\n'), nil
}

// Save writes an episode's trajectory to NAME.npz and NAME.json in [Dir]. NAME is derived from its ID. save
// writes one file of a folder.
func Save(id, task string, d policy.Demonstration, save func(folder, name string, data []byte) error) error {
	npz, label, err := Encode(task, d)
	if err != nil {
		return err
	}
	name := store.FileName(id)
	if err := save(Dir, name+".npz", npz); err != nil {
		return err
	}
	return save(Dir, name+".json", label)
}

// trajectories is a folder of trajectories.
type trajectories struct {
	dir   string
	space spaceJSON
	names []string
	list  []Episode
}

func openTrajectories(dir string) (Set, error) {
	s := &trajectories{dir: dir}
	read := func(name string, to any) error {
		path := filepath.Join(dir, Dir, name)
		data, err := os.ReadFile(path)
		if err == nil {
			err = json.Unmarshal(data, to)
		}
		if err != nil {
			return plugins.Errorf(plugins.Corrupt, "cannot be read: %w", err).WithPlace("%s", path).
				WithHint("restore the file from a backup, or remove an episode's .json to leave the episode out")
		}
		return nil
	}
	if err := read(SpaceFile, &s.space); err != nil {
		return nil, err
	}
	if s.space.Format != format {
		return nil, plugins.Errorf(plugins.Mismatch, "the trajectories have format %d, but this srpo reads format %d",
			s.space.Format, format).WithPlace("%s", filepath.Join(dir, Dir)).
			WithHint("use the version of srpo that wrote them")
	}
	if s.space.RecordEvery < 1 {
		return nil, plugins.Errorf(plugins.Corrupt, "record_every is %d", s.space.RecordEvery).
			WithPlace("%s", filepath.Join(dir, Dir, SpaceFile)).WithHint("set it to 1 or more")
	}
	entries, err := os.ReadDir(filepath.Join(dir, Dir))
	if err != nil {
		return nil, plugins.Errorf(plugins.Invalid, "cannot be read: %w", err).
			WithPlace("%s", filepath.Join(dir, Dir)).WithHint("check its permissions")
	}
	seen := map[string]string{}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok || e.Name() == SpaceFile || strings.HasPrefix(name, ".") {
			continue
		}
		var j episodeJSON
		if err := read(e.Name(), &j); err != nil {
			return nil, err
		}
		if other, twice := seen[j.ID]; twice {
			return nil, plugins.Errorf(plugins.Corrupt, "%s and %s have the same id %q", other, e.Name(), j.ID).
				WithPlace("%s", filepath.Join(dir, Dir)).WithHint("remove one of them")
		}
		seen[j.ID] = e.Name()
		s.names = append(s.names, name)
		s.list = append(s.list, Episode(j))
	}
	if len(s.list) == 0 {
		return nil, plugins.Errorf(plugins.Invalid, "it contains no trajectory").
			WithPlace("%s", filepath.Join(dir, Dir)).WithHint(hint)
	}
	sort.Sort(byID{s})
	return s, nil
}

// byID sorts names and list together.
type byID struct{ *trajectories }

func (b byID) Len() int { return len(b.list) }

func (b byID) Less(i, j int) bool { return b.list[i].ID < b.list[j].ID }

func (b byID) Swap(i, j int) {
	b.list[i], b.list[j] = b.list[j], b.list[i]
	b.names[i], b.names[j] = b.names[j], b.names[i]
}

func (s *trajectories) Form() string { return "trajectories" }

func (s *trajectories) Episodes() []Episode { return s.list }

func (s *trajectories) Warnings() []string { return nil }

func (s *trajectories) RecordEvery() int { return s.space.RecordEvery }

func (s *trajectories) Close() {}

func (s *trajectories) Space() Space {
	a := s.space.Action
	return Space{Env: s.space.Env, Action: plugins.ActionSpace{Names: a.Names, Low: a.Low, High: a.High,
		Meaning: a.Meaning, RateHz: a.RateHz}, Proprio: s.space.Proprio,
		Cameras: s.space.Cameras, RecordCamera: s.space.RecordCamera}
}

func (s *trajectories) Clip(ctx context.Context, i int) (media.Clip, error) {
	return media.Open(ctx, filepath.Join(s.dir, attempts.ClipsDir, s.names[i]+".npz"), nil)
}

func (s *trajectories) Demonstration(_ context.Context, i int, cameras []string) (policy.Demonstration, error) {
	e, path := s.list[i], filepath.Join(s.dir, Dir, s.names[i]+".npz")
	d := policy.Demonstration{ID: e.ID, Instruction: e.Instruction, Images: map[string]plugins.Tensor{},
		Success: e.Success != nil && *e.Success}
	bad := func(err error) (policy.Demonstration, error) {
		return d, plugins.AsError(err).WithPlace("%s", path)
	}
	want := []string{actionsArray, proprioArray}
	for _, c := range cameras {
		want = append(want, imageArray+c)
	}
	arrays, err := media.ReadArrays(path, want)
	if err != nil {
		return bad(err)
	}
	if d.Actions = arrays[actionsArray]; d.Actions.IsZero() {
		return bad(plugins.Errorf(plugins.Corrupt, "there is no array %q", actionsArray).
			WithHint("remove the episode's .npz and .json to leave it out"))
	}
	if err := d.Actions.Check(actionsArray, plugins.Float32, e.Steps, -1); err != nil {
		return bad(err)
	}
	if d.Proprio = arrays[proprioArray]; !d.Proprio.IsZero() {
		if err := d.Proprio.Check(proprioArray, plugins.Float32, e.Steps, -1); err != nil {
			return bad(err)
		}
	}
	for _, c := range cameras {
		img, ok := arrays[imageArray+c]
		if !ok {
			return bad(plugins.Errorf(plugins.Mismatch, "the trajectories have no camera %q, only %s", c,
				strings.Join(s.space.Cameras, ", ")).
				WithHint("record them with the same env, or set the policy's camera to one of these"))
		}
		if err := img.Check("the images of camera "+c, plugins.Uint8, e.Steps, -1, -1, 3); err != nil {
			return bad(err)
		}
		d.Images[c] = img
	}
	return d, nil
}
