package dataset

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/host/attempts"
	"github.com/srpo-dev/srpo/host/media"
	"github.com/srpo-dev/srpo/host/supervise/pyenv"
	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/policy"
)

var space = Space{Env: "toy", Action: plugins.ActionSpace{Names: []string{"x", "y"}, Low: []float32{-1, -1},
	High: []float32{1, 1}, Meaning: "metres", RateHz: 10},
	Proprio: []string{"a", "b", "c"}, Cameras: []string{"front", "wrist"}, RecordCamera: "front"}

// toy returns an episode of n steps whose images change slowly, so that a lossy video is close to them.
func toy(i, n int) policy.Demonstration {
	var front, wrist []byte
	var actions, proprio []float32
	for t := range n {
		for y := range 16 {
			for x := range 24 {
				front = append(front, byte(40*i+5*t), byte(8*x), byte(12*y))
			}
		}
		wrist = append(wrist, bytes.Repeat([]byte{byte(10 * t), 60, byte(200 - 20*i)}, 16*16)...)
		actions = append(actions, float32(i)/8, float32(math.Sin(float64(t))))
		proprio = append(proprio, float32(t), float32(i), 0.1)
	}
	return policy.Demonstration{ID: fmt.Sprintf("e%d", i), Instruction: fmt.Sprintf("do %d", i%2),
		Success: i%2 == 0, Actions: plugins.Floats(actions, n, 2), Proprio: plugins.Floats(proprio, n, 3),
		Images: map[string]plugins.Tensor{"front": plugins.Bytes(front, n, 16, 24, 3),
			"wrist": plugins.Bytes(wrist, n, 16, 16, 3)}}
}

// recording writes a folder with n episodes.
func recording(t *testing.T, n int) (string, []policy.Demonstration) {
	t.Helper()
	dir := t.TempDir()
	put := func(folder, name string, data []byte) {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, folder), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, folder, name), data, 0o644))
	}
	text, err := EncodeSpace(space, 4)
	require.NoError(t, err)
	put(Dir, SpaceFile, text)
	var demos []policy.Demonstration
	for i := range n {
		d := toy(i, 9+i)
		demos = append(demos, d)
		npz, label, err := Encode(fmt.Sprintf("task/%d", i%2), d)
		require.NoError(t, err)
		put(Dir, d.ID+".npz", npz)
		put(Dir, d.ID+".json", label)
		var clip bytes.Buffer
		require.NoError(t, media.EncodeNPZ(&clip, "frames", plugins.Bytes(d.Images["front"].Data[:3*16*24*3], 3,
			16, 24, 3)))
		put(attempts.ClipsDir, d.ID+".npz", clip.Bytes())
	}
	return dir, demos
}

func TestTrajectories(t *testing.T) {
	ctx := context.Background()
	dir, demos := recording(t, 3)
	s, err := Open(ctx, dir, Options{})
	require.NoError(t, err)
	defer s.Close()
	require.Equal(t, space, s.Space())
	require.Equal(t, 4, s.RecordEvery())
	for i, e := range s.Episodes() {
		require.Equal(t, demos[i].ID, e.ID)
		require.Equal(t, fmt.Sprintf("task/%d", i%2), e.Task)
		require.Equal(t, demos[i].Success, *e.Success)
		d, err := s.Demonstration(ctx, i, []string{"front", "wrist"})
		require.NoError(t, err)
		require.Equal(t, demos[i], d)
		c, err := s.Clip(ctx, i)
		require.NoError(t, err)
		require.Equal(t, []int{3, 16, 24, 3}, c.Frames.Shape)
	}
	_, err = s.Demonstration(ctx, 0, []string{"top"})
	require.ErrorContains(t, err, `no camera "top"`)

	path := filepath.Join(dir, Dir, "e1.npz")
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, data[:len(data)/2], 0o644))
	_, err = s.Demonstration(ctx, 1, nil)
	require.Equal(t, path, plugins.AsError(err).Place)
	require.NoError(t, os.WriteFile(filepath.Join(dir, Dir, "e2.json"), []byte(`{"id": "e0"}`), 0o644))
	_, err = Open(ctx, dir, Options{})
	require.ErrorContains(t, err, `have the same id "e0"`)
}

func TestFoldersWithoutTrajectories(t *testing.T) {
	for name, files := range map[string][]string{"contains no recorded episodes": {"x"},
		"has no trajectories": {"manifest.json", "srpo.toml"}, "clips but no actions": {"labels.jsonl"},
		"LeRobot data sets cannot be read here": {"meta/info.json"}} {
		dir := t.TempDir()
		for _, f := range files {
			require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, f)), 0o755))
			require.NoError(t, os.WriteFile(filepath.Join(dir, f), nil, 0o644))
		}
		_, err := Open(context.Background(), dir, Options{})
		require.ErrorContains(t, err, name)
	}
	_, err := Open(context.Background(), filepath.Join(t.TempDir(), "nowhere"), Options{})
	require.Equal(t, plugins.NotFound, plugins.KindOf(err))
}

// python returns the interpreter of the reader's environment. It skips the test if the environment is not
// installed.
func python(t *testing.T) string {
	t.Helper()
	cache, err := pyenv.CacheDir()
	require.NoError(t, err)
	found, _ := filepath.Glob(filepath.Join(cache, "venvs", "lerobot-*", "bin", "python"))
	for _, p := range found {
		if exec.Command(p, "-c", "import av, numpy, PIL, pyarrow").Run() == nil {
			return p
		}
	}
	t.Skip("the reader of LeRobot data sets is not installed: srpo data show FOLDER of one installs it")
	return ""
}

func TestLeRobotRoundTrip(t *testing.T) {
	interpreter := python(t)
	dir, demos := recording(t, 3)
	v3 := filepath.Join(t.TempDir(), "v3")
	run := func(args ...string) (string, error) {
		cmd := exec.Command(interpreter, args...)
		cmd.Env = append(os.Environ(), "OMP_NUM_THREADS=1", "PYTHONDONTWRITEBYTECODE=1")
		output, err := cmd.CombinedOutput()
		return string(output), err
	}
	out, err := run("lerobot/write.py", "--from", dir, "--out", v3, "--fps", "10")
	require.NoError(t, err, out)
	out, err = run("lerobot/write.py", "--from", dir, "--out", v3, "--fps", "10")
	require.Error(t, err)
	require.Contains(t, out, "the folder is not empty")
	out, err = run("testdata/picture_statistics.py")
	require.NoError(t, err, out)
	v2 := filepath.Join(t.TempDir(), "v2")
	out, err = run("testdata/as_v21.py", v3, v2)
	require.NoError(t, err, out)

	reader := &Reader{Command: func(context.Context) ([]string, []string, error) {
		return []string{interpreter, "lerobot/read.py"}, []string{"PYTHONDONTWRITEBYTECODE=1"}, nil
	}}
	o := Options{Action: "action", State: "observation.state", RecordEvery: 4,
		RequestedCameras: []string{"front", "wrist"},
		Reader:           reader}
	for folder, form := range map[string]string{v3: "LeRobot v3.0", v2: "LeRobot v2.1"} {
		requireEpisodes(t, folder, form, o, demos)
	}
	requireStatistics(t, v3)
	requireErrors(t, v3, o)
	requireWithoutVideo(t, v3, o)
}

// requireEpisodes compares a data set with the episodes that were written. Videos are lossy.
func requireEpisodes(t *testing.T, folder, form string, o Options, demos []policy.Demonstration) {
	ctx := context.Background()
	s, err := Open(ctx, folder, o)
	require.NoError(t, err)
	defer s.Close()
	require.Equal(t, form, s.Form())
	require.Equal(t, []string{"x", "y"}, s.Space().Action.Names)
	require.Len(t, s.Episodes(), 3)
	for i, want := range demos {
		require.Equal(t, want.Success, *s.Episodes()[i].Success)
		d, err := s.Demonstration(ctx, i, []string{"wrist", "front"})
		require.NoError(t, err)
		require.Equal(t, want.Instruction, d.Instruction)
		require.Equal(t, want.Actions, d.Actions)
		require.Equal(t, want.Proprio, d.Proprio)
		for _, camera := range space.Cameras {
			require.Equal(t, want.Images[camera].Shape, d.Images[camera].Shape)
			sum := 0.0
			for k, v := range want.Images[camera].Data {
				sum += math.Abs(float64(v) - float64(d.Images[camera].Data[k]))
			}
			require.Less(t, sum/float64(len(want.Images[camera].Data)), 8.0,
				"%s %s: mean absolute difference of pixels", form, camera)
		}
		clip, err := s.Clip(ctx, i)
		require.NoError(t, err)
		size := 16 * 24 * 3
		require.Equal(t, 1+(9+i-1)/4, clip.Frames.Shape[0])
		require.Equal(t, d.Images["front"].Data[4*size:5*size], clip.Frames.Data[size:2*size],
			"frame 1 of the clip is that of step 4")
	}
}

func requireStatistics(t *testing.T, folder string) {
	var stats map[string]map[string]any
	data, err := os.ReadFile(filepath.Join(folder, "meta", "stats.json"))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(data, &stats))
	require.InDelta(t, 0.25, stats["action"]["max"].([]any)[0], 1e-6)
	require.EqualValues(t, 30, stats["action"]["count"].([]any)[0])
}

func requireErrors(t *testing.T, folder string, o Options) {
	ctx := context.Background()
	for wrong, change := range map[string]func(*Options){
		`no feature "act"`:               func(o *Options) { o.Action = "act" },
		`no feature "nowhere"`:           func(o *Options) { o.Cameras = []string{"front=nowhere"} },
		`not of the form CAMERA=FEATURE`: func(o *Options) { o.Cameras = []string{"front"} },
		`there is no feature 'won'`:      func(o *Options) { o.Success = "won" },
		`it is not known which camera`:   func(o *Options) { o.RequestedCameras = []string{"top"} },
	} {
		bad := o
		change(&bad)
		s, err := Open(ctx, folder, bad)
		if err == nil {
			_, err = s.Clip(ctx, 0)
			s.Close()
		}
		require.ErrorContains(t, err, wrong)
		require.NotEmpty(t, plugins.AsError(err).Hint, wrong)
	}
}

// requireWithoutVideo damages the video of one camera.
func requireWithoutVideo(t *testing.T, folder string, o Options) {
	ctx := context.Background()
	video := filepath.Join(folder, "videos", "observation.images.front", "chunk-000", "file-000.mp4")
	require.NoError(t, os.Truncate(video, 100))
	s, err := Open(ctx, folder, o)
	require.NoError(t, err)
	defer s.Close()
	_, err = s.Clip(ctx, 0)
	require.ErrorContains(t, err, "does not decode")
	_, err = s.Demonstration(ctx, 0, []string{"wrist"})
	require.NoError(t, err, "other cameras can still be read")
}
