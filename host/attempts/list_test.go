package attempts

import (
	"context"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/plugins"
)

// write writes a file in a new folder and returns its path.
func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	return path
}

func TestListFormatsAreEquivalent(t *testing.T) {
	for name, text := range map[string]string{
		"list.json": `[{"id":"a","task":"stack","success":true,"embedding":[0,1.5]},
			{"id":7,"task":"stack","success":false,"embedding":[2,-3e-1],"progress":0.5},
			{"id":"c","task":"push","success":null,"embedding":[4,4]}]`,
		"object.json": `{"attempts":[{"id":"a","task":"stack","success":1,"embedding":[0,1.5]},
			{"id":7,"task":"stack","success":0,"embedding":[2,-0.3],"progress":0.5},
			{"id":"c","task":"push","embedding":[4,4]}]}`,
		"list.jsonl": "{\"id\":\"a\",\"task\":\"stack\",\"success\":true,\"embedding\":[0,1.5]}\n\n" +
			"{\"id\":7,\"task\":\"stack\",\"success\":false,\"embedding\":[2,-0.3],\"progress\":0.5}\n" +
			"{\"id\":\"c\",\"task\":\"push\",\"success\":null,\"embedding\":[4,4]}",
		"list.csv": "\xef\xbb\xbfid,task,success,progress,embedding\na,stack,true,,0 1.5\n7,stack,False,0.5,\"[2, " +
			"-0.3]\"\nc,push,,,4;4\n",
		"semi.csv": "id;task;success;progress;embedding\r\na;stack;yes;;0 1.5\r\n7;stack;no;0.5;[2, " +
			"-0.3]\r\nc;push;unknown;;4 4\r\n",
		"other.csv": "name,task,label,progress,embedding\na,stack,success,,0 1.5\n7,stack,failure,0.5,2 " +
			"-0.3\nc,push,?,,4 4\n",
	} {
		list, err := Read(context.Background(), write(t, name, text))
		require.NoError(t, err, name)
		yes, no, half := true, false, 0.5
		require.Equal(t, []Attempt{
			{ID: "a", Task: "stack", Success: &yes, Embedding: []float64{0, 1.5}},
			{ID: "7", Task: "stack", Success: &no, Progress: &half, Embedding: []float64{2, -0.3}},
			{ID: "c", Task: "push", Embedding: []float64{4, 4}},
		}, list.Attempts, name)
		require.Empty(t, list.Warnings)
		require.Equal(t, "list", list.Form)
	}
}

func TestBadEmbeddingIsAProblemOfItsAttempt(t *testing.T) {
	list, err := Read(context.Background(), write(t, "l.json", `[{"id":"a","embedding":[1,NaN,-Infinity,null,1e999]},
		{"id":"b","embedding":["x"]},
		{"id":"c","embedding":3},
		{"id":"d"},
			{"id":"e","embedding":"gone.npy"},
			{"id":"a \"NaN\" in a name","embedding":[]},
			{"id":"v","video":"gone.mp4"}]`))
	require.NoError(t, err)
	require.Equal(t, defaultTask, list.Attempts[0].Task)
	v := list.Attempts[0].Embedding
	require.True(t, math.IsNaN(v[1]) && math.IsInf(v[2], -1) && math.IsNaN(v[3]) && math.IsInf(v[4], 1), "%v", v)
	problems := make([]string, len(list.Attempts))
	for i, a := range list.Attempts {
		problems[i] = a.Problem
	}
	require.Equal(t, []string{"", `the embedding has "x" at index 0, not a number`,
		"the embedding is the number 3, not a list of numbers",
		"it has neither an embedding nor a video", "the embedding gone.npy: it does not exist", "",
		"the video does not exist: gone.mp4"}, problems)
	require.Equal(t, `a "NaN" in a name`, list.Attempts[5].ID)
}

// A missing video is a problem of its attempt. If all are missing, the list cannot be used.
func TestListWithoutItsVideos(t *testing.T) {
	path := write(t, "l.csv", "id,success,video\na,1,v/a.mp4\nb,0,v/b.mp4\n")
	_, err := Read(t.Context(), path)
	require.Equal(t, plugins.Invalid, plugins.KindOf(err))
	require.ErrorContains(t, err, "none of its videos exists: v/b.mp4, for example")
	require.Contains(t, plugins.AsError(err).Hint, filepath.Dir(path))
	put(t, filepath.Join(filepath.Dir(path), "v/b.mp4"), nil)
	list, err := Read(t.Context(), path)
	require.NoError(t, err)
	require.Equal(t, "the video does not exist: v/a.mp4", list.Attempts[0].Problem)
}

func TestEmbeddingsFromFiles(t *testing.T) {
	dir := t.TempDir()
	header := func(descr, shape string) []byte {
		text := "{'descr': '" + descr + "', 'fortran_order': False, 'shape': " + shape + ", }\n"
		return append([]byte{0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, byte(len(text)), 0}, text...)
	}
	put := func(name string, data []byte) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), data, 0o644))
	}
	put("half.npy", append(header("<f2", "(3,)"), 0x00, 0x3c, 0x00, 0xc0, 0x01, 0x00)) // 1, -2, 2^-24
	put("float.npy", append(header("<f4", "(1, 1)"), 0, 0, 0x80, 0x3e))
	put("short.npy", append(header("<f8", "(2,)"), 0, 0))
	put("many.npy", append(header("<f8", "(2, 2)"), make([]byte, 32)...))
	put("whole.npy", append(header("<i8", "(2,)"), make([]byte, 16)...))
	put("no.npy", []byte("PK"))
	put("l.csv", []byte("id,embedding\na,half.npy\nb,float.npy\nc,short.npy\nd,many.npy\ne,whole.npy\nf,no.npy\n"))
	list, err := Read(context.Background(), filepath.Join(dir, "l.csv"))
	require.NoError(t, err)
	require.Equal(t, []float64{1, -2, math.Ldexp(1, -24)}, list.Attempts[0].Embedding)
	require.Equal(t, []float64{0.25}, list.Attempts[1].Embedding)
	for i, want := range []string{"ends before its 2 numbers", "(2 x 2), not one vector",
		`"<i8", not little-endian floats`, "this is not a .npy array"} {
		require.Contains(t, list.Attempts[2+i].Problem, want)
	}
}

// A list can name one file with all embeddings.
func TestEmbeddingsAsAMatrix(t *testing.T) {
	dir := t.TempDir()
	head := []byte("\x93NUMPY\x01\x00\x3b\x00{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)}  \n")
	head[8] = byte(len(head) - 10)
	put(t, filepath.Join(dir, "m.npy"), append(head, make([]byte, 2*3*4)...))
	put(t, filepath.Join(dir, "l.json"),
		[]byte(`{"embeddings": "m.npy", "attempts": [{"id": "a"}, {"id": "b", "embedding": [1, 2, 3]}]}`))
	list, err := Read(context.Background(), filepath.Join(dir, "l.json"))
	require.NoError(t, err)
	require.Equal(t, []float64{0, 0, 0}, list.Attempts[0].Embedding)
	require.Equal(t, []float64{1, 2, 3}, list.Attempts[1].Embedding, "an embedding in the list has priority")
	for text, want := range map[string]string{
		`{"embeddings": "m.npy", "attempts": [{"id": "a"}]}`:    "shape (2 x 3) for 1 attempts",
		`{"embeddings": "gone.npy", "attempts": [{"id": "a"}]}`: "it does not exist",
		`{"embeddings": "l.json", "attempts": [{"id": "a"}]}`:   "not a .npy array",
	} {
		put(t, filepath.Join(dir, "bad.json"), []byte(text))
		_, err := Read(context.Background(), filepath.Join(dir, "bad.json"))
		require.ErrorContains(t, err, want)
		require.Contains(t, plugins.AsError(err).Place, "embeddings ")
	}
}

// The error names the place and has a hint.
func TestBadLists(t *testing.T) {
	for _, c := range []struct{ name, text, place, want string }{
		{"l.json", `[]`, "l.json", "no attempt"},
		{"l.json", `[{"id":1,]`, "l.json:1:10", "invalid JSON"},
		{"l.json", "[\n{\"id\":1}", "l.json:2:", "ends in the middle"},
		{"l.json", `[{"id":1}] 2`, "l.json:1:", "more text after its end"},
		{"l.json", `[3]`, "l.json, attempt 1", "not an object but the number 3"},
		{"l.json", `[{"task":"x"}]`, "l.json, attempt 1", "has no id"},
		{"l.json", `[{"id":"x","success":"perhaps"}]`, "l.json, attempt 1", "success is perhaps"},
		{"l.json", `[{"id":"x","success":2}]`, "l.json, attempt 1", "success is 2"},
		{"l.json", `[{"id":"x","progress":"far"}]`, "l.json, attempt 1", "progress is far"},
		{"l.json", `[{"id":"x","demo":true}]`, "l.json, attempt 1", "demonstration but not a success"},
		{"l.json", `[{"id":"x","task":"a"},{"id":"y"}]`, "l.json, attempt 2",
			"no task, while other attempts have one"},
		{"l.json", `[{"id":"x"},{"id":"x"}]`, "l.json", `two attempts have the id "x"`},
		{"l.json", `[{"id":"x","video":"a.gif","embedding":[1]}]`, "l.json, attempt 1",
			"both a video and an embedding"},
		{"l.json", `{"attempts":3}`, "l.json", "no list of attempts"},
		{"l.json", `{"a":3}`, `l.json, "a"`, "the number 3 instead of a label"},
		{"l.json", `{"anchors":{"t":["x"]},"attempts":[]}`, "l.json", "anchor"},
		{"l.json", `{"anchors":[1],"attempts":[]}`, "l.json", "the anchors are not an object"},
		{"l.csv", "id,task\na,b,c\n", "l.csv:2", "3 values for 2 columns"},
		{"l.csv", "id,embedding\na,\"1 2\n", "l.csv:2", `"`},
		{"l.csv", "task,success\nx,1\n", "l.csv:1", "no column is called id"},
		{"l.csv", "", "l.csv", "no attempt"},
		{"l.txt", "x", "l.txt", "must end in .json"},
	} {
		path := write(t, c.name, c.text)
		_, err := Read(context.Background(), path)
		e := plugins.AsError(err)
		require.Error(t, err, c.text)
		require.Equal(t, plugins.Invalid, e.Kind, c.text)
		require.Contains(t, e.Place, c.place, c.text)
		require.Contains(t, e.Message, c.want, c.text)
		require.NotEmpty(t, e.Hint, c.text)
	}
	_, err := Read(context.Background(), filepath.Join(t.TempDir(), "nothing"))
	require.Equal(t, plugins.NotFound, plugins.KindOf(err))
}

func TestMisspeltKeys(t *testing.T) {
	list, err := Read(context.Background(),
		write(t, "l.json", `[{"id":"x","suxcess":true,"embedding":[1],"camera":"front"},
			{"id":"y","suxcess":true,"embedding":[1]}]`))
	require.NoError(t, err)
	require.Equal(t, []string{`"suxcess" is ignored; did you mean "success"?`}, list.Warnings)
}

func put(t *testing.T, path string, data []byte) string {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, data, 0o644))
	return path
}
