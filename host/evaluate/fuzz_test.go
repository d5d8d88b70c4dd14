package evaluate

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/plugins"
)

// FuzzFolder reads any text in the files of an evaluation's folder. It is refused with its place and a remedy,
// or can be summed up, shown, merged and compared.
func FuzzFolder(f *testing.F) {
	record := []byte(
		`{"format":2,"seed":"7","identity":{"env":"tabletop"},"trials":2,"mine":2,` +
			`"split":{"by":"start"},"left_out":{"no GPU":3}}`,
	)
	tasks := []byte(
		`{"id":"a","suite":"s","tags":{"dimension":"camera","level":"L1"},"start_states":3}` + "\n" +
			`{"id":"b"}` + "\n",
	)
	episodes := []byte(
		`{"id":"e/0","index":0,"task":"a","start_state":1,"seed":"3","side":"train","success":true,` +
			`"terminated":true,"steps":9}` + "\n" +
			`{"id":"e/1","index":1,"task":"b","seed":"4","side":"test","truncated":true,"steps":50,` +
			`"progress":0.7}` + "\n",
	)
	f.Add(record, tasks, episodes)
	f.Add(
		record,
		tasks,
		[]byte(
			`{"id":"e/0","task":"a","seed":"1","progress":-1}`+"\n"+
				`{"id":"e/1","task":"unknown","seed":"1","steps":-5,"progress":1e300}`+"\n{",
		),
	)
	f.Add(record, []byte("[]\n"), episodes)
	f.Add([]byte(`{"format":3}`), tasks, episodes)
	f.Add(
		[]byte(`{"format":2,"trials":-1,"mine":-9,"seed":"-1"}`),
		[]byte("\n"),
		append(bytes.Clone(episodes), episodes...),
	)
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, record, tasks, episodes []byte) {
		for name, data := range map[string][]byte{RecordFile: record, TasksFile: tasks, EpisodesFile: episodes} {
			require.NoError(t, os.WriteFile(filepath.Join(dir, name), data, 0o644))
		}
		folder, err := OpenFolder(dir)
		if err != nil {
			e := plugins.AsError(err)
			require.Contains(t, e.Place, dir)
			require.NotEmpty(t, e.Hint)
			return
		}
		_ = folder.Whole()
		r := Summarize(folder.Record, folder.Tasks, folder.Episodes, folder.Videos())
		require.Equal(t, len(folder.Episodes), r.All.Episodes)
		require.NoError(t, r.Table(io.Discard))
		r.Page("x", folder.Record, func(string) ([]byte, error) { return nil, os.ErrNotExist })
		if c, err := Compare(folder, folder); err == nil {
			require.NoError(t, c.Table(io.Discard))
		}
		_, _ = Merge([]*Folder{folder})
	})
}
