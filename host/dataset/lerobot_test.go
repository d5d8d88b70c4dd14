package dataset

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/plugins"
)

// smallSet is the specification of testdata/small.py.
type smallSet struct {
	Version      string         `json:"version"`
	Instructions []string       `json:"instructions"`
	Episodes     []smallEpisode `json:"episodes"`
	Files        [][][3]int     `json:"files,omitempty"`
	Named        []int          `json:"named,omitempty"`
	Depth        string         `json:"depth,omitempty"`
	Videos       bool           `json:"videos,omitempty"`
}

type smallEpisode struct {
	Tasks  []int    `json:"tasks,omitempty"`
	Labels []*bool  `json:"labels"`
	Listed []string `json:"listed,omitempty"`
}

// episodeOf returns an episode with one frame per task and a label at the last step.
func episodeOf(success *bool, listed []string, tasks ...int) smallEpisode {
	labels := make([]*bool, len(tasks))
	if success != nil {
		for i := range labels {
			labels[i] = new(bool)
		}
		labels[len(labels)-1] = success
	}
	return smallEpisode{Tasks: tasks, Labels: labels, Listed: listed}
}

func (s smallSet) write(t *testing.T, interpreter string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "set")
	spec, err := json.Marshal(s)
	require.NoError(t, err)
	cmd := exec.Command(interpreter, "testdata/small.py", dir, string(spec))
	cmd.Env = append(os.Environ(), "OMP_NUM_THREADS=1", "PYTHONDONTWRITEBYTECODE=1")
	output, err := cmd.CombinedOutput()
	require.NoError(t, err, string(output))
	return dir
}

func smallOptions(interpreter string) Options {
	return Options{Action: "action", State: "observation.state", RequestedCameras: []string{"front"},
		Reader: &Reader{Command: func(context.Context) ([]string, []string, error) {
			return []string{interpreter, "lerobot/read.py"}, []string{"PYTHONDONTWRITEBYTECODE=1"}, nil
		}}}
}

// described returns "ID INSTRUCTION STEPS LABEL" for each episode, and the actions of frames "N.T" of each.
func described(t *testing.T, s Set) (episodes []string, actions [][]float32) {
	t.Helper()
	for i, e := range s.Episodes() {
		label := "unlabelled"
		if e.Success != nil {
			label = map[bool]string{true: "success", false: "failure"}[*e.Success]
		}
		episodes = append(episodes, strings.Join([]string{e.ID, e.Instruction, label}, "|"))
		d, err := s.Demonstration(context.Background(), i, nil)
		require.NoError(t, err)
		require.Equal(t, []int{e.Steps, 2}, d.Actions.Shape)
		require.Equal(t, e.Instruction, d.Instruction)
		actions = append(actions, d.Actions.Float32s())
	}
	return episodes, actions
}

func TestLeRobotRowsAndInstructions(t *testing.T) {
	interpreter := python(t)
	yes, no := true, false
	plain := []smallEpisode{episodeOf(&yes, []string{"old a"}, 0, 0), episodeOf(&no, []string{"old b"}, 1, 1, 1),
		episodeOf(&yes, []string{"old a"}, 0, 0)}
	everything := []string{"episode-000000|a|success", "episode-000001|b|failure", "episode-000002|a|success"}
	for name, x := range map[string]struct {
		set      smallSet
		episodes []string
		warnings []string
	}{
		"the metadata names another file": {smallSet{Episodes: plain, Named: []int{0, 0, 0},
			Files: [][][3]int{{{0, 0, 2}, {1, 0, 3}}, {{2, 0, 2}}}}, everything, nil},
		"rows in two files": {smallSet{Episodes: plain, Named: []int{0, 0, 1},
			Files: [][][3]int{{{0, 0, 2}, {1, 0, 1}}, {{1, 1, 3}, {2, 0, 2}}}}, everything, nil},
		"a leftover copy": {smallSet{Episodes: plain, Named: []int{0, 0, 1},
			Files: [][][3]int{{{0, 0, 2}, {1, 0, 3}}, {{1, 0, 3}, {2, 0, 2}}}}, everything, nil},
		"rows of the last episode are missing": {smallSet{Episodes: plain, Named: []int{0, 0, 1},
			Files: [][][3]int{{{0, 0, 2}, {1, 0, 3}}}}, everything[:2],
			[]string{"1 of 3 episodes left out, because no file data/chunk-*/file-*.parquet contains their rows: " +
				"episode-000002"}},
		"some rows are missing": {smallSet{Episodes: plain, Named: []int{0, 0, 1},
			Files: [][][3]int{{{0, 0, 2}, {1, 0, 1}}, {{2, 0, 2}}}}, []string{everything[0], everything[2]},
			[]string{"1 of 3 episodes left out: episode-000001 has 1 of 3 rows"}},
		"rows twice": {smallSet{Episodes: plain, Named: []int{0, 0, 1},
			Files: [][][3]int{{{0, 0, 2}, {1, 0, 2}}, {{1, 1, 2}, {2, 0, 2}}}}, []string{everything[0], everything[2]},
			[]string{"1 of 3 episodes left out: episode-000001 has rows with the same frame_index"}},
		"no labels": {smallSet{Episodes: []smallEpisode{episodeOf(nil, nil, 0, 0), episodeOf(&no, nil, 1)}},
			[]string{"episode-000000|a|unlabelled", "episode-000001|b|failure"}, nil},
		"no lists of tasks": {smallSet{Episodes: []smallEpisode{episodeOf(&yes, nil, 0, 0), episodeOf(&no, nil, 1)}},
			[]string{"episode-000000|a|success", "episode-000001|b|failure"}, nil},
		"several tasks": {smallSet{Episodes: []smallEpisode{episodeOf(&yes, []string{"b", "a"}, 0, 0, 1),
			episodeOf(&no, []string{"b", "a"}, 1, 0, 1)}},
			[]string{"episode-000000-part-1|a|unlabelled", "episode-000000-part-2|b|success",
				"episode-000001-part-1|b|unlabelled", "episode-000001-part-2|a|unlabelled",
				"episode-000001-part-3|b|failure"},
			[]string{"2 of 2 episodes have several tasks and are split where task_index changes, into 5 parts: " +
				"episode-000000, episode-000001"}},
	} {
		for _, version := range []string{"v3.0", "v2.1"} {
			if x.set.Files != nil && version == "v2.1" {
				continue // one file per episode
			}
			x.set.Version, x.set.Instructions = version, []string{"a", "b"}
			s, err := Open(context.Background(), x.set.write(t, interpreter), smallOptions(interpreter))
			require.NoError(t, err, name)
			episodes, actions := described(t, s)
			require.Equal(t, x.episodes, episodes, name)
			require.Equal(t, x.warnings, append([]string(nil), s.Warnings()...), name)
			if name == "rows in two files" {
				require.Equal(t, []float32{1, 0, 1, 1, 1, 2}, actions[1])
			}
			if name == "several tasks" {
				require.Equal(t, [][]float32{{0, 0, 0, 1}, {0, 2}, {1, 0}, {1, 1}, {1, 2}}, actions)
			}
			s.Close()
		}
	}
}

// A data set of which only some files were fetched is read, and lines end at \n alone.
func TestLeRobotPartialSet(t *testing.T) {
	interpreter, yes := python(t), true
	text := "put the red\u2028block\u0085on the plate"
	small := smallSet{Version: "v2.1", Instructions: []string{text}, Videos: true, Episodes: []smallEpisode{
		episodeOf(&yes, nil, 0, 0), episodeOf(&yes, nil, 0, 0), episodeOf(&yes, nil, 0, 0)}}
	dir := small.write(t, interpreter)
	require.NoError(t, os.Remove(filepath.Join(dir, "data/chunk-000/episode_000001.parquet")))
	require.NoError(t, os.Remove(filepath.Join(dir, "videos/chunk-000/front/episode_000000.mp4")))
	s, err := Open(context.Background(), dir, smallOptions(interpreter))
	require.NoError(t, err)
	defer s.Close()
	require.Len(t, s.Episodes(), 1)
	require.Equal(t, Episode{ID: "episode-000002", Task: text, Instruction: text, Success: &yes, Steps: 2},
		s.Episodes()[0])
	require.Equal(t, []string{
		"1 of 3 episodes left out, because no file data/chunk-*/episode_*.parquet contains their rows: episode-000001",
		"1 of 3 episodes left out, because their videos are missing: episode-000000"}, s.Warnings())

	require.NoError(t, os.Remove(filepath.Join(dir, "data/chunk-000/episode_000002.parquet")))
	_, err = Open(context.Background(), dir, smallOptions(interpreter))
	require.ErrorContains(t, err, "2 of 3 episodes left out, because no file")
	require.NotEmpty(t, plugins.AsError(err).Hint)
}

func TestLeRobotFramesOfParts(t *testing.T) {
	interpreter, yes := python(t), true
	for _, version := range []string{"v3.0", "v2.1"} {
		small := smallSet{Version: version, Instructions: []string{"a", "b"}, Videos: true, Episodes: []smallEpisode{
			episodeOf(&yes, nil, 0, 0, 0), episodeOf(&yes, nil, 0, 0, 1, 1, 1)}}
		s, err := Open(context.Background(), small.write(t, interpreter), smallOptions(interpreter))
		require.NoError(t, err)
		require.Equal(t, "episode-000001-part-2", s.Episodes()[2].ID)
		clip, err := s.Clip(context.Background(), 2)
		require.NoError(t, err)
		require.Equal(t, 3, clip.Frames.Shape[0])
		for k := range 3 {
			require.InDelta(t, 10*(2+k), clip.Frames.Data[k*32*32*3], 4, version)
		}
		s.Close()
	}
}

func TestLeRobotDepthIsNoCamera(t *testing.T) {
	ctx, interpreter, yes := context.Background(), python(t), true
	small := smallSet{Version: "v3.0", Instructions: []string{"a"}, Videos: true, Depth: "mark",
		Episodes: []smallEpisode{episodeOf(&yes, nil, 0, 0)}}
	o := smallOptions(interpreter)
	dir := small.write(t, interpreter)
	s, err := Open(ctx, dir, o)
	require.NoError(t, err)
	require.Equal(t, []string{"front"}, s.Space().Cameras)
	require.Equal(t, []string{"depth: left out, because depth maps are not colours"}, s.Warnings())
	s.Close()
	o.Cameras = []string{"front=depth"}
	_, err = Open(ctx, dir, o)
	require.ErrorContains(t, err, "depth contains depth maps, not colours")

	for _, small.Depth = range []string{"tiff", "video"} { // without the mark of lerobot
		s, err = Open(ctx, small.write(t, interpreter), o)
		require.NoError(t, err)
		_, err = s.Clip(ctx, 0)
		require.ErrorContains(t, err, "have one channel of more than 8 bits, as depth maps have, not colours")
		s.Close()
	}
}

func TestLeRobotUnknownInstruction(t *testing.T) {
	interpreter, yes := python(t), true
	small := smallSet{Version: "v3.0", Instructions: []string{"a"},
		Episodes: []smallEpisode{episodeOf(&yes, []string{"a"}, 3, 3)}}
	_, err := Open(context.Background(), small.write(t, interpreter), smallOptions(interpreter))
	require.ErrorContains(
		t, err, "episode-000000 has task_index 3, which meta/tasks lacks: its instruction is not known",
	)

	small.Episodes = []smallEpisode{{Labels: []*bool{&yes}, Listed: []string{"a", "b"}}}
	_, err = Open(context.Background(), small.write(t, interpreter), smallOptions(interpreter))
	require.ErrorContains(t, err, "has rows without task_index: its instruction is not known")
	small.Episodes[0].Listed = []string{"only"}
	s, err := Open(context.Background(), small.write(t, interpreter), smallOptions(interpreter))
	require.NoError(t, err)
	defer s.Close()
	require.Equal(t, "only", s.Episodes()[0].Instruction)
}
