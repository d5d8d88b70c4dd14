package attempts

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/host/media"
	"github.com/srpo-dev/srpo/plugins"
)

// folder creates a folder of tiny videos and other files.
func folder(t *testing.T, files map[string]string, videos ...string) string {
	t.Helper()
	dir := t.TempDir()
	var clip bytes.Buffer
	require.NoError(t, media.EncodeNPZ(&clip, "frames", plugins.Bytes([]byte{10, 20, 30, 200, 80, 40, 90, 90, 90},
		3, 1, 1, 3)))
	for _, v := range videos {
		data := clip.Bytes()
		if strings.HasSuffix(v, ".png") {
			data = []byte("not looked at yet")
		}
		put(t, filepath.Join(dir, v), data)
	}
	for name, text := range files {
		put(t, filepath.Join(dir, name), []byte(text))
	}
	return dir
}

func TestFolderOfVideos(t *testing.T) {
	yes, no := true, false
	for name, text := range map[string]string{
		"labels.csv": "file,task,success\na.npz,stack,1\nsub/b.npz,stack,0\npictures,push,true\n" +
			"gone.npz,push,false\n",
		"labels.json": `[{"file":"a.npz","task":"stack","success":true},
			{"file":"sub/b.npz","task":"stack","success":false},
			{"file":"pictures","task":"push","success":true},
			{"file":"gone.npz","task":"push","success":false}]`,
		"labels.jsonl": "{\"id\":\"a.npz\",\"task\":\"stack\",\"success\":1}\n" +
			"{\"video\":\"./sub/b.npz\",\"id\":\"sub/b.npz\",\"task\":\"stack\",\"success\":0}\n" +
			"{\"id\":\"pictures\",\"task\":\"push\",\"success\":1}\n" +
			"{\"id\":\"gone.npz\",\"task\":\"push\",\"success\":0}",
	} {
		dir := folder(t, map[string]string{name: text}, "a.npz", "sub/b.npz", "pictures/1.png", "pictures/2.png",
			"sub/c.npz", ".hidden/x.npz")
		list, err := Read(context.Background(), dir)
		require.NoError(t, err, name)
		require.Equal(t, "folder", list.Form)
		want := []Attempt{
			{ID: "a.npz", Task: "stack", Success: &yes, Video: filepath.Join(dir, "a.npz")},
			{ID: "sub/b.npz", Task: "stack", Success: &no, Video: filepath.Join(dir, "sub/b.npz")},
			{ID: "pictures", Task: "push", Success: &yes, Video: filepath.Join(dir, "pictures")},
			{ID: "gone.npz", Task: "push", Success: &no, Problem: "the video does not exist: gone.npz"},
			{ID: "sub/c.npz", Problem: "its task is not known, because it has no label",
				Video: filepath.Join(dir, "sub/c.npz")},
		}
		for i := range want {
			want[i].Problem = strings.TrimSpace(want[i].Problem)
			if i == 3 && name == "labels.jsonl" {
				want[i].Problem = "no video in the folder has this name"
			}
		}
		require.Equal(t, want, list.Attempts, name)
		require.Equal(t, []string{"videos without a label are left out, because their task is not known: " +
			"sub/c.npz"}, list.Warnings)
	}
}

// A label can name a video outside the folder. A file that is not a video, or an ambiguous name, is a
// problem of its attempt.
func TestLabelsOfOtherFiles(t *testing.T) {
	dir := folder(t, map[string]string{"in/labels.csv": "id,file,success\na,a.npz,1\n" +
		"out,../out.npz,0\ntext,notes.txt,0\nempty,nothing,0\ntwin,twin,0\n", "in/notes.txt": "x"},
		"in/a.npz", "out.npz", "in/twin.npz", "in/twin.gif")
	require.NoError(t, os.Mkdir(filepath.Join(dir, "in/nothing"), 0o755))
	list, err := Read(t.Context(), filepath.Join(dir, "in"))
	require.NoError(t, err)
	require.Equal(t, filepath.Join(dir, "out.npz"), list.Attempts[1].Video)
	require.Empty(t, list.Attempts[1].Problem)
	for i, want := range map[int]string{2: `".txt" is not a kind of video`, 3: "contains no png or jpeg picture"} {
		require.Empty(t, list.Attempts[i].Problem)
		_, err := media.Open(t.Context(), list.Attempts[i].Video, nil)
		require.ErrorContains(t, err, want)
	}
	require.Equal(t, "several videos have this name: twin.gif, twin.npz", list.Attempts[4].Problem)
}

func TestUnlabelledVideosOfOneTask(t *testing.T) {
	dir := folder(t, map[string]string{"labels.json": `{"a": true, "b.npz": {"success": false}}`}, "a.npz",
		"b.npz", "c.npz", "d.npz")
	list, err := Read(context.Background(), dir)
	require.NoError(t, err)
	require.Len(t, list.Attempts, 4)
	require.Equal(t, "a", list.Attempts[0].ID)
	require.Equal(t, defaultTask, list.Attempts[2].Task)
	require.Nil(t, list.Attempts[2].Success)
	require.Empty(t, list.Attempts[2].Problem)
	require.Equal(t, []string{"videos without a label are scored against the others: c.npz, d.npz"}, list.Warnings)
}

// Labels can be in a .json file per video, as in run folders.
func TestLabelsBesideVideos(t *testing.T) {
	label, err := Label{ID: "3/task/0/1", Task: "stack", Success: true, Iteration: 3, Steps: 40,
		RecordEvery: 4}.Marshal()
	require.NoError(t, err)
	files := map[string]string{"clips/a.json": string(label),
		"clips/b.json": `{"id": "3/task/0/2", "task": "stack", "success": false,
			"progress": 0.25, "index": 2, "seed": 18446744073709551615}`}
	dir := folder(t, files, "clips/a.npz", "clips/b.npz")
	list, err := Read(context.Background(), filepath.Join(dir, "clips"))
	require.NoError(t, err)
	require.Len(t, list.Attempts, 2)
	require.Equal(t, "3/task/0/1", list.Attempts[0].ID)
	require.True(t, *list.Attempts[0].Success)
	require.Equal(t, 0.25, *list.Attempts[1].Progress)
	require.Empty(t, list.Warnings)

	// The folder around it is a run folder.
	files["manifest.json"], files["srpo.toml"] = "{}", ""
	list, err = Read(context.Background(), folder(t, files, "clips/a.npz", "clips/b.npz"))
	require.NoError(t, err)
	require.Equal(t, "run", list.Form)
	require.Len(t, list.Attempts, 2)
}

func TestRunFolders(t *testing.T) {
	base := map[string]string{"manifest.json": "{}", "srpo.toml": ""}
	with := func(more map[string]string) map[string]string {
		out := map[string]string{}
		for _, m := range []map[string]string{base, more} {
			for k, v := range m {
				out[k] = v
			}
		}
		return out
	}
	_, err := Read(context.Background(), folder(t, base))
	require.Equal(t, plugins.NotFound, plugins.KindOf(err))
	require.Contains(t, plugins.AsError(err).Hint, "run.keep_clips=all")

	list, err := Read(context.Background(), folder(t, with(map[string]string{
		"embeddings/000001.json": `{"encoder":"pixel","attempts":[{"id":"1/t/0/0","task":"t",
			"success":true,"embedding":[1,2]}]}`,
		"embeddings/000002.json": `{"encoder":"pixel","attempts":[{"id":"2/t/0/0","task":"t",
			"success":false,"embedding":[1,3]}]}`})))
	require.NoError(t, err)
	require.Equal(t, "pixel", list.Encoder)
	require.Len(t, list.Attempts, 2)

	list, err = Read(context.Background(),
		folder(t, with(map[string]string{"episodes/a.json": `{"id":"1/t/0/0","task":"t","success":true}`}),
			"episodes/a.npz"))
	require.NoError(t, err)
	require.Len(t, list.Warnings, 1)
	require.Contains(t, list.Warnings[0], "has no clips")

	list, err = Read(context.Background(), folder(t, map[string]string{"eval.json": "{}",
		"clips/a.json": `{"id":"eval/0","task":"t","success":true}`}, "clips/a.npz"))
	require.NoError(t, err)
	require.Equal(t, "evaluation", list.Form)
}

func TestFoldersThatCannotBeUsed(t *testing.T) {
	for name, c := range map[string]struct {
		files  map[string]string
		videos []string
		want   string
	}{
		"nothing":   {nil, nil, "no video and no labels file"},
		"no labels": {nil, []string{"a.npz"}, "no labels file"},
		"two labels files": {map[string]string{"labels.csv": "", "labels.json": ""}, nil,
			"labels.json and labels.csv"},
		"labels of others": {map[string]string{"labels.csv": "file,success\nx.mp4,1\ny.mp4,0\n"},
			[]string{"a.npz"}, "none of the 2 labels names a video in the folder, for example x.mp4; the folder has " +
				"a.npz"},
		"labels of nothing": {map[string]string{"labels.csv": "file,success\nx.mp4,1\n"}, nil,
			"the folder has no video"},
		"a label twice": {map[string]string{"labels.csv": "file,success\na.npz,1\na,0\n"}, []string{"a.npz"},
			"a.npz has two labels"},
		"a broken label": {map[string]string{"labels.json": `{"a.npz": `}, []string{"a.npz"},
			"ends in the middle"},
		"a broken json": {map[string]string{"a.json": `{"success": `}, []string{"a.npz"}, "ends in the middle"},
	} {
		_, err := Read(context.Background(), folder(t, c.files, c.videos...))
		require.ErrorContains(t, err, c.want, name)
		require.NotEmpty(t, plugins.AsError(err).Hint, name)
		require.Equal(t, plugins.Invalid, plugins.KindOf(err), name)
	}
}
