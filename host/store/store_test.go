package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"image/gif"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/plugins"
)

func manifest() Manifest {
	return Manifest{
		Host: "0.1.0", Seed: 1<<63 + 5, Command: []string{"srpo", "run"}, Plugins: []Plugin{
			{Kind: plugins.Env, Name: "tabletop", Version: "1", Hash: "ab"},
		},
	}
}

func newRun(t *testing.T) *Run {
	t.Helper()
	r, err := Create(filepath.Join(t.TempDir(), "runs", "a"), manifest(), []byte("[run]\n"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = r.Close() })
	return r
}

// savePolicy saves files like a policy plugin.
func savePolicy(dir string, iteration int) error {
	if err := os.MkdirAll(filepath.Join(dir, "optimizer"), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(
		filepath.Join(dir, "weights"), bytes.Repeat([]byte{byte(iteration)}, 5000), 0o644,
	); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "optimizer", "state"), []byte(fmt.Sprint("state ", iteration)), 0o644)
}

func metricsOf(i int) *Metrics {
	return &Metrics{Iteration: i, EnvSteps: int64(1000 * i), Episodes: 64, SuccessRate: 0.1 * float64(i%7),
		KL: math.NaN(), Seconds: 2,
		SecondsByPhase: map[string]float64{"rollout": 1.5, "encode": 1}, Extra: map[string]float64{"entropy": 1.25}}
}

func commit(r *Run, i int) error {
	if err := r.Append(Event{Type: GroupDropped, Iteration: i, Message: "in iteration " + fmt.Sprint(i)}); err != nil {
		return err
	}
	p, err := r.Begin(i)
	if err != nil {
		return err
	}
	defer p.Abort()
	if err := savePolicy(p.PolicyDir(), i); err != nil {
		return err
	}
	if err := p.WriteFile("host.json", []byte(fmt.Sprintf(`{"iteration":%d}`, i))); err != nil {
		return err
	}
	return p.Commit(metricsOf(i))
}

func iterations(t *testing.T, dir string) []int {
	t.Helper()
	rec, err := Read(dir)
	require.NoError(t, err)
	var list []int
	for _, m := range rec.Metrics {
		list = append(list, m.Iteration)
	}
	return list
}

func TestCommitAndContinue(t *testing.T) {
	r := newRun(t)
	dir := r.Dir()
	for i := 1; i <= 3; i++ {
		require.NoError(t, commit(r, i))
	}
	// The host dies during iteration 4.
	require.NoError(t, r.Append(Event{Type: Warning, Iteration: 4, Message: "before the crash"}))
	p, err := r.Begin(4)
	require.NoError(t, err)
	require.NoError(t, savePolicy(p.PolicyDir(), 4))
	require.NoError(t, r.metrics.append([]byte(`{"iteration":4}`)))
	_, err = r.events.file.WriteAt([]byte(`{"type":"warn`), r.events.size) // a torn line
	require.NoError(t, err)
	require.NoError(t, r.Close())

	r, err = Open(dir)
	require.NoError(t, err)
	defer r.Close()
	require.Equal(t, uint64(1<<63+5), r.Manifest().Seed)
	c, warnings, err := r.Resume()
	require.NoError(t, err)
	require.Empty(t, warnings)
	require.Equal(t, 3, c.Iteration)
	host, err := c.ReadFile("host.json")
	require.NoError(t, err)
	require.JSONEq(t, `{"iteration":3}`, string(host))
	weights, err := os.ReadFile(filepath.Join(c.PolicyDir(), "weights"))
	require.NoError(t, err)
	require.Equal(t, bytes.Repeat([]byte{3}, 5000), weights)
	_, err = c.ReadFile("../000002/host.json")
	require.Error(t, err)
	require.Equal(t, []int{1, 2, 3}, iterations(t, dir))
	cut, err := os.ReadFile(filepath.Join(dir, cutFile))
	require.NoError(t, err)
	require.Contains(t, string(cut), "before the crash")

	require.NoError(t, commit(r, 4))
	require.Equal(t, []int{1, 2, 3, 4}, iterations(t, dir))
	rec, err := Read(dir)
	require.NoError(t, err)
	require.Empty(t, rec.Problems)
	require.True(t, math.IsNaN(rec.Metrics[0].KL))
	require.Equal(t, 1.25, rec.Metrics[0].Extra["entropy"])
	require.GreaterOrEqual(t, rec.Metrics[0].SecondsByPhase["commit"], 0.0)
	require.InDelta(t, 2+rec.Metrics[0].SecondsByPhase["commit"], rec.Metrics[0].Seconds, 1e-9)
	types := []EventType{}
	for _, e := range rec.Events {
		types = append(types, e.Type)
	}
	require.Equal(t, []EventType{GroupDropped, GroupDropped, GroupDropped, ResumedRun, GroupDropped}, types)
}

func TestResumeBeforeTheFirstCommit(t *testing.T) {
	r := newRun(t)
	require.NoError(t, r.Append(Event{Type: Started}))
	require.NoError(t, r.Close())
	r, err := Open(r.Dir())
	require.NoError(t, err)
	defer r.Close()
	_, _, err = r.Latest()
	require.Equal(t, plugins.NotFound, plugins.KindOf(err))
	c, _, err := r.Resume()
	require.NoError(t, err)
	require.Nil(t, c)
	require.NoError(t, commit(r, 0))
}

// A run that ended before its first commit, for example because a name was mistyped, is replaced.
func TestRunWithoutCommitIsReplaced(t *testing.T) {
	r := newRun(t)
	require.NoError(t, r.Append(Event{Type: Failed, Message: "no env has this name"}))
	require.NoError(t, r.Close())
	log := filepath.Join(r.Dir(), logsDir, "env-x.log")
	require.NoError(t, os.MkdirAll(filepath.Dir(log), 0o755))
	require.NoError(t, os.WriteFile(log, []byte("output\n"), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(r.Dir(), reportFile), nil, 0o644))
	again, err := Create(r.Dir(), manifest(), []byte("[run]\nenv = \"y\"\n"))
	require.NoError(t, err)
	require.FileExists(t, log)
	text, err := os.ReadFile(filepath.Join(r.Dir(), configFile))
	require.NoError(t, err)
	require.Contains(t, string(text), `"y"`)
	rec, err := Read(r.Dir())
	require.NoError(t, err)
	require.Empty(t, rec.Events)
	require.NoError(t, again.Close())

	// It is not replaced if it contains a file of the user or a part of a checkpoint.
	for _, name := range []string{
		"notes.txt", filepath.Join(checkpointsDir, pendingPrefix+"000000"), filepath.Join(episodesDir, "a.gif"),
	} {
		file := filepath.Join(r.Dir(), name)
		require.NoError(t, os.WriteFile(file, []byte("x"), 0o644))
		_, err = Create(r.Dir(), manifest(), nil)
		require.Equal(t, plugins.Invalid, plugins.KindOf(err), name)
		require.FileExists(t, file)
		require.NoError(t, os.Remove(file))
	}
}

// A newest checkpoint with any damage is not used. The damaged file is named, and the run continues from the previous
// checkpoint.
func TestDamageIsFoundAndNamed(t *testing.T) {
	remove := func(t *testing.T, path string) { require.NoError(t, os.RemoveAll(path)) }
	truncate := func(size int64) func(*testing.T, string) {
		return func(t *testing.T, path string) { require.NoError(t, os.Truncate(path, size)) }
	}
	for name, tc := range map[string]struct {
		damage func(t *testing.T, path string)
		path   string
		file   string // the file that the warning names
		why    string
	}{
		"truncated":    {truncate(4999), "policy/weights", "policy/weights", "4999 bytes, 5000 were committed"},
		"bit flipped":  {flip, "policy/optimizer/state", "policy/optimizer/state", "SHA-256"},
		"missing":      {remove, "host.json", "host.json", "missing"},
		"no manifest":  {remove, "MANIFEST", "MANIFEST", "missing"},
		"manifest":     {flip, "MANIFEST", "MANIFEST", "SHA-256"},
		"manifest cut": {truncate(0), "MANIFEST", "MANIFEST", "SHA-256"},
		"folder":       {remove, "policy", "policy/optimizer/state", "missing"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRun(t)
			for i := 1; i <= 3; i++ {
				require.NoError(t, commit(r, i))
			}
			tc.damage(t, filepath.Join(r.checkpointDir(3), tc.path))
			c, warnings, err := r.Resume()
			require.NoError(t, err)
			require.Equal(t, 2, c.Iteration)
			require.Len(t, warnings, 1)
			w := plugins.AsError(warnings[0])
			require.Equal(t, plugins.Corrupt, w.Kind)
			require.Equal(t, filepath.Join(r.checkpointDir(3), tc.file), w.Place)
			require.Contains(t, w.Message, tc.why)
			require.Equal(t, []int{1, 2}, iterations(t, r.Dir()))
			require.NoError(t, commit(r, 3), "the iteration can be repeated")
			c, _, err = r.Latest()
			require.NoError(t, err)
			require.Equal(t, 3, c.Iteration)
			rec, err := Read(r.Dir())
			require.NoError(t, err)
			require.Equal(t, Warning, rec.Events[2].Type)
		})
	}
	r := newRun(t)
	require.NoError(t, commit(r, 1))
	flip(t, filepath.Join(r.checkpointDir(1), "host.json"))
	_, _, err := r.Resume()
	require.Equal(t, plugins.Corrupt, plugins.KindOf(err))
	require.NotEmpty(t, plugins.AsError(err).Hint)
	require.Equal(t, []int{1}, iterations(t, r.Dir()), "nothing was cut")
}

func flip(t *testing.T, path string) {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	data[len(data)/3] ^= 4
	require.NoError(t, os.WriteFile(path, data, 0o644))
}

// A host that dies, or a disk that fails, at any one operation of a whole run loses nothing that was committed.
func TestEveryOperationMayFail(t *testing.T) {
	for _, mode := range []string{"crash", "error"} {
		t.Run(mode, func(t *testing.T) {
			at := 1
			for failAt(t, mode, at) {
				at++
			}
			require.Greater(t, at, 60)
		})
	}
}

// crash is the panic that stands for the death of the host.
type crash struct{}

// failAt lets the n-th operation of a run of three iterations fail, and checks that the run can be continued. It
// returns false if there are fewer than n operations.
func failAt(t *testing.T, mode string, n int) bool {
	dir := filepath.Join(memoryDir(t), "r")
	operations, armed, failed := 0, true, ""
	done, r, err := runThree(dir, func(op, path string) error {
		if operations++; !armed || operations != n {
			return nil
		}
		failed = op + " " + path
		if mode == "crash" {
			panic(crash{})
		}
		return &os.PathError{Op: op, Path: path, Err: syscall.EIO}
	})
	if failed == "" {
		require.NoError(t, err)
		return false
	}
	armed = false
	if mode == "error" && err != nil {
		e := plugins.AsError(err)
		require.Equal(t, plugins.Internal, e.Kind, failed)
		require.Contains(t, failed, e.Place)
		require.Contains(t, e.Message, "input/output error", failed)
		require.NotEmpty(t, e.Hint)
		if done >= 0 {
			require.Contains(t, e.Hint, "--resume")
			// The same process can commit again, unless the folder got its final name before the failure.
			if list := r.Checkpoints(); len(list) > 0 && list[len(list)-1] == done {
				require.NoError(t, commit(r, done+1), failed)
				require.Equal(t, done+1, iterations(t, dir)[done], failed)
				done++
			}
		}
	}
	if r != nil {
		_ = r.Close()
	}
	r, err = openAfterCrash(dir)
	if done < 0 && err != nil { // it died while it created the folder
		require.Equal(t, plugins.NotFound, plugins.KindOf(err), failed)
		return true
	}
	require.NoError(t, err, failed)
	requireResumes(t, r, done, failed)
	return true
}

// runThree creates a run and commits iterations 1 to 3. done is the last one that was committed; -1: none.
func runThree(dir string, inject func(op, path string) error) (done int, r *Run, err error) {
	done = -1
	defer func() {
		if v := recover(); v != nil {
			if _, ok := v.(crash); !ok {
				panic(v)
			}
			err = errors.New("crashed")
		}
	}()
	if r, err = create(dir, manifest(), []byte("x"), inject); err != nil {
		return done, r, err
	}
	r.Keep = 1
	for i := 1; i <= 3; i++ {
		if err = commit(r, i); err != nil {
			return done, r, err
		}
		done = i
	}
	return done, r, nil
}

// requireResumes checks that a run resumes from iteration done or a later one, without a gap or a leftover.
func requireResumes(t *testing.T, r *Run, done int, failed string) {
	t.Helper()
	c, warnings, err := r.Resume()
	require.NoError(t, err, failed)
	require.Empty(t, warnings, failed)
	last := -1
	if c != nil {
		last = c.Iteration
	}
	require.GreaterOrEqual(t, last, done, failed)
	var want []int
	for i := 1; i <= last; i++ {
		want = append(want, i)
	}
	require.Equal(t, want, iterations(t, r.Dir()), failed)
	require.NoError(t, commit(r, max(1, last+1)), failed)
	leftovers, err := filepath.Glob(filepath.Join(r.Dir(), checkpointsDir, ".*"))
	require.NoError(t, err)
	require.Empty(t, leftovers, failed)
	require.NoError(t, r.Close())
}

// memoryDir returns a temporary folder, in memory if possible, where thousands of fsyncs are fast.
func memoryDir(t testing.TB) string {
	dir, err := os.MkdirTemp("/dev/shm", "srpo-store")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// openAfterCrash opens a folder whose "crashed" run is in this process, and keeps the lock until the garbage collector
// closes its file.
func openAfterCrash(dir string) (r *Run, err error) {
	for range 500 {
		if r, err = Open(dir); plugins.KindOf(err) != plugins.Unavailable {
			break
		}
		runtime.GC()
		time.Sleep(time.Millisecond)
	}
	return r, err
}

func TestRetention(t *testing.T) {
	r := newRun(t)
	r.Keep = 2
	for i := 1; i <= 9; i++ { // success rates .1 .2 .3 .4 .5 .6 0 .1 .2
		require.NoError(t, commit(r, i))
	}
	require.Equal(t, []int{6, 8, 9}, r.Checkpoints())
	best, err := Best(r.Dir())
	require.NoError(t, err)
	require.Equal(t, 6, best.Iteration)

	p, err := r.Begin(10)
	require.NoError(t, err)
	require.NoError(t, savePolicy(p.PolicyDir(), 10))
	m := metricsOf(10)
	m.SuccessRate = 0.9
	require.NoError(t, p.Commit(m))
	require.Equal(t, []int{9, 10}, r.Checkpoints())

	r.Keep = 1
	require.NoError(t, commit(r, 11))
	require.Equal(t, []int{10, 11}, r.Checkpoints())
	r.Keep = 0
	require.NoError(t, commit(r, 12))
	require.Equal(t, []int{10, 11, 12}, r.Checkpoints())
}

func TestOneWriter(t *testing.T) {
	r := newRun(t)
	_, err := Open(r.Dir())
	require.Equal(t, plugins.Unavailable, plugins.KindOf(err))
	require.ErrorContains(t, err, fmt.Sprint("process ", os.Getpid()))
	_, err = Create(r.Dir(), manifest(), nil)
	require.Equal(t, plugins.Unavailable, plugins.KindOf(err))
	require.NoError(t, r.Close())
	require.Error(t, r.Append(Event{Type: Warning}))
	again, err := Open(r.Dir())
	require.NoError(t, err)
	require.NoError(t, again.Close())
}

func TestRefusedFolders(t *testing.T) {
	r := newRun(t)
	require.NoError(t, commit(r, 0))
	require.NoError(t, r.Close())
	_, err := Create(r.Dir(), manifest(), nil)
	require.Equal(t, plugins.Invalid, plugins.KindOf(err))
	require.Contains(t, plugins.AsError(err).Hint, "--resume")

	other := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(other, "thesis.tex"), nil, 0o644))
	_, err = Create(other, manifest(), nil)
	require.ErrorContains(t, err, "thesis.tex")

	_, err = Open(other)
	require.Equal(t, plugins.NotFound, plugins.KindOf(err))
	_, err = Create(filepath.Join(other, "thesis.tex"), manifest(), nil)
	require.Equal(t, plugins.Invalid, plugins.KindOf(err))

	for text, kind := range map[string]plugins.ErrorKind{
		`{"format_version": 2}`: plugins.Mismatch, `{"format_version": 0, "plugins": 3}`: plugins.Mismatch,
		`{}`: plugins.Corrupt, `{"format_version"`: plugins.Corrupt,
		`{"format_version": 1, "plugins": 3}`: plugins.Corrupt, "": plugins.Corrupt,
	} {
		require.NoError(t, os.WriteFile(filepath.Join(r.Dir(), manifestFile), []byte(text), 0o644))
		_, err = Open(r.Dir())
		require.Equal(t, kind, plugins.KindOf(err), text)
		require.NotEmpty(t, plugins.AsError(err).Hint)
		require.Contains(t, plugins.AsError(err).Place, manifestFile)
	}
}

func TestLinksAreNotCommitted(t *testing.T) {
	r := newRun(t)
	p, err := r.Begin(1)
	require.NoError(t, err)
	require.NoError(t, os.Symlink("/etc/hostname", filepath.Join(p.PolicyDir(), "weights")))
	err = p.Commit(metricsOf(1))
	require.Equal(t, plugins.Corrupt, plugins.KindOf(err))
	require.Empty(t, r.Checkpoints())
	require.NoFileExists(t, p.dir)
	for _, name := range []string{"../x", "policy", "MANIFEST", "a/b", ".", ""} {
		p, err := r.Begin(1)
		require.NoError(t, err)
		require.Error(t, p.WriteFile(name, nil), name)
		p.Abort()
	}
}

func TestEventsFromManyGoroutines(t *testing.T) {
	r := newRun(t)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := range 50 {
				if err := r.Append(Event{
					Type: Warning, Iteration: i, Message: strings.Repeat("x", g*10),
					Data: map[string]any{"loss": math.Inf(1)},
				}); err != nil {
					t.Error(err)
				}
			}
		}()
	}
	require.NoError(t, commit(r, 1))
	wg.Wait()
	rec, err := Read(r.Dir())
	require.NoError(t, err)
	require.Len(t, rec.Events, 401)
	require.Empty(t, rec.Problems)
}

func TestMetricsLine(t *testing.T) {
	m := metricsOf(2)
	m.SecondsByPhase["zeta"], m.SecondsByPhase["alpha"] = 1, 2
	text, err := json.Marshal(m)
	require.NoError(t, err)
	require.Equal(t,
		`{"iteration":2,"env_steps":2000,"episodes":64,"success_rate":0.2,"reward_mean":0,`+
			`"groups_kept":0,"groups_dropped":0,"embeddings_dropped":0,`+
			`"clusters":0,"kl":null,"clip_fraction":0,"grad_norm":0,"seconds":2,`+
			`"seconds_by_phase":{"rollout":1.5,"encode":1,"alpha":2,"zeta":1},"entropy":1.25}`,
		string(text))
	var back Metrics
	require.NoError(t, json.Unmarshal(text, &back))
	require.True(t, math.IsNaN(back.KL))
	back.KL, m.KL = 0, 0
	require.Equal(t, *m, back)
	m.Extra["kl"] = 1
	_, err = json.Marshal(m)
	require.Error(t, err)
	require.Error(t, json.Unmarshal([]byte(`{"iteration":"x"}`), &back))
	require.NoError(t, json.Unmarshal([]byte(`{"new":[1],"iteration":3}`), &back), "a field of a later version")
	require.True(t, math.IsNaN(back.SuccessRate))
}

// A limit on file sizes ends a write in the middle of a line. The incomplete line is removed.
func TestFileSizeLimit(t *testing.T) {
	if dir := os.Getenv("SRPO_TEST_LIMIT"); dir != "" {
		r, err := Create(dir, manifest(), []byte("x"))
		require.NoError(t, err)
		require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 4000, Max: 4000}))
		for i := 0; ; i++ {
			if err = r.Append(Event{Type: Warning, Message: strings.Repeat("x", 300)}); err != nil {
				break
			}
		}
		e := plugins.AsError(err)
		require.Equal(t, plugins.Exhausted, e.Kind)
		require.Contains(t, e.Hint, "ulimit -f")
		return
	}
	dir := filepath.Join(t.TempDir(), "r")
	cmd := exec.Command(os.Args[0], "-test.run=^TestFileSizeLimit$")
	cmd.Env = append(os.Environ(), "SRPO_TEST_LIMIT="+dir)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	rec, err := Read(dir)
	require.NoError(t, err)
	require.Empty(t, rec.Problems)
	require.NotEmpty(t, rec.Events)
	data, err := os.ReadFile(filepath.Join(dir, eventsFile))
	require.NoError(t, err)
	require.True(t, bytes.HasSuffix(data, []byte("\n")), "no incomplete line is left")
}

func TestReadOfPartialFolders(t *testing.T) {
	dir := t.TempDir()
	rec, err := Read(dir)
	require.NoError(t, err)
	require.Len(t, rec.Problems, 4)
	text := "{\"iteration\":1}\nnonsense\n[]\n{\"iteration\":2}\n{\"iter"
	require.NoError(t, os.WriteFile(filepath.Join(dir, metricsFile), []byte(text), 0o644))
	rec, err = Read(dir)
	require.NoError(t, err)
	require.Len(t, rec.Metrics, 2)
	require.Contains(t, strings.Join(rec.Problems, "\n"), "metrics.jsonl: line 2")
	_, err = Read(filepath.Join(dir, "nowhere"))
	require.Equal(t, plugins.NotFound, plugins.KindOf(err))
}

// clip returns a disc that moves over a shaded background, uint8 [n, side, side, 3].
func clip(n, side int) plugins.Tensor {
	data := make([]byte, n*side*side*3)
	for f := range n {
		cx, cy := float64(side)*(0.2+0.6*float64(f)/float64(max(1, n-1))), float64(side)*0.5
		for y := range side {
			for x := range side {
				p := data[((f*side+y)*side+x)*3:]
				p[0], p[1], p[2] = byte(200*x/side), byte(200*y/side), 90
				if math.Hypot(float64(x)-cx, float64(y)-cy) < float64(side)/8 {
					p[0], p[1], p[2] = 230, 40, 30
				}
			}
		}
	}
	return plugins.Bytes(data, n, side, side, 3)
}

func TestSaveEpisode(t *testing.T) {
	r := newRun(t)
	d := 1.5
	long := "3/" + strings.Repeat("pick/", 60) + "/0/5"
	for _, id := range []string{
		"3/libero_object/pick up: the bbq/0/5", "3/libero_object/pick up- the bbq/0/5", "12/../../x/0/1", long,
		long + "6",
	} {
		path, err := r.SaveEpisode(
			Episode{ID: id, Iteration: 3, Reward: 0.4, Distance: &d, Seed: 1<<64 - 1, Steps: 80}, clip(20, 64),
		)
		require.NoError(t, err)
		require.Equal(t, filepath.Join(r.Dir(), "episodes"), filepath.Dir(path))
	}
	nan := math.NaN()
	_, err := r.SaveEpisode(Episode{ID: "4/a/0/0", Iteration: 4, Distance: &nan}, clip(1, 8))
	require.NoError(t, err)
	rec, err := Read(r.Dir())
	require.NoError(t, err)
	require.Empty(t, rec.Problems)
	require.Len(t, rec.Episodes, 6)
	require.Equal(t, uint64(1<<64-1), rec.Episodes[0].Seed)
	require.Nil(t, rec.Episodes[5].Distance)
	data, err := rec.Video(rec.Episodes[1])
	require.NoError(t, err)
	g, err := gif.DecodeAll(bytes.NewReader(data))
	require.NoError(t, err)
	require.Len(t, g.Image, 20)

	for _, bad := range []plugins.Tensor{
		{}, plugins.Bytes(nil, 0, 4, 4, 3), plugins.Bytes(make([]byte, 16), 1, 4, 4, 1),
		plugins.Bytes(make([]byte, 5), 1, 4, 4, 3),
	} {
		_, err = r.SaveEpisode(Episode{ID: "5/a/0/0"}, bad)
		require.Equal(t, plugins.Corrupt, plugins.KindOf(err))
		require.Contains(t, plugins.AsError(err).Place, "5/a/0/0")
	}
}
