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
	return Manifest{Host: "0.1.0", Seed: 1<<63 + 5, Command: []string{"srpo", "run"}, Plugins: []Plugin{{Kind: plugins.Env, Name: "tabletop", Version: "1", Hash: "ab"}}}
}

func newRun(t *testing.T) *Run {
	t.Helper()
	r, err := Create(filepath.Join(t.TempDir(), "runs", "a"), manifest(), []byte("[run]\n"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = r.Close() })
	return r
}

// savePolicy stands for a plugin that writes into the folder given to it.
func savePolicy(dir string, iteration int) error {
	if err := os.MkdirAll(filepath.Join(dir, "optimizer"), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "weights"), bytes.Repeat([]byte{byte(iteration)}, 5000), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "optimizer", "state"), []byte(fmt.Sprint("state ", iteration)), 0o644)
}

func metricsOf(i int) *Metrics {
	return &Metrics{Iteration: i, EnvSteps: int64(1000 * i), Episodes: 64, SuccessRate: 0.1 * float64(i%7), KL: math.NaN(), Seconds: 2,
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

func TestCommitAndGoOn(t *testing.T) {
	r := newRun(t)
	dir := r.Dir()
	for i := 1; i <= 3; i++ {
		require.NoError(t, commit(r, i))
	}
	// Iteration 4 is under way when the host dies.
	require.NoError(t, r.Append(Event{Type: Warning, Iteration: 4, Message: "last words"}))
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
	require.Contains(t, string(cut), "last words")

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

func TestGoOnBeforeTheFirstCommit(t *testing.T) {
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

// A run that ended before its first commit, because a name was mistyped for example, is in nobody's way.
func TestARunThatNeverBeganIsReplaced(t *testing.T) {
	r := newRun(t)
	require.NoError(t, r.Append(Event{Type: Failed, Message: "no env is called that"}))
	require.NoError(t, r.Close())
	log := filepath.Join(r.Dir(), logsDir, "env-x.log")
	require.NoError(t, os.MkdirAll(filepath.Dir(log), 0o755))
	require.NoError(t, os.WriteFile(log, []byte("words\n"), 0o644))
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

	// Not with anything of the user's in it, nor half a checkpoint.
	for _, name := range []string{"notes.txt", filepath.Join(checkpointsDir, pendingName+"000000"), filepath.Join(episodesDir, "a.gif")} {
		file := filepath.Join(r.Dir(), name)
		require.NoError(t, os.WriteFile(file, []byte("x"), 0o644))
		_, err = Create(r.Dir(), manifest(), nil)
		require.Equal(t, plugins.Invalid, plugins.KindOf(err), name)
		require.FileExists(t, file)
		require.NoError(t, os.Remove(file))
	}
}

// Whatever is done to the newest checkpoint, it is not used, the file is named, and the run goes on from the one before.
func TestDamageIsFoundAndNamed(t *testing.T) {
	for name, tc := range map[string]struct {
		harm func(t *testing.T, dir string)
		file string
		why  string
	}{
		"truncated": {func(t *testing.T, d string) {
			require.NoError(t, os.Truncate(filepath.Join(d, "policy/weights"), 4999))
		}, "policy/weights", "4999 bytes, 5000 were committed"},
		"bit flipped":  {func(t *testing.T, d string) { flip(t, filepath.Join(d, "policy/optimizer/state")) }, "policy/optimizer/state", "SHA-256"},
		"missing":      {func(t *testing.T, d string) { require.NoError(t, os.Remove(filepath.Join(d, "host.json"))) }, "host.json", "missing"},
		"no manifest":  {func(t *testing.T, d string) { require.NoError(t, os.Remove(filepath.Join(d, "MANIFEST"))) }, "MANIFEST", "missing"},
		"manifest":     {func(t *testing.T, d string) { flip(t, filepath.Join(d, "MANIFEST")) }, "MANIFEST", "SHA-256"},
		"manifest cut": {func(t *testing.T, d string) { require.NoError(t, os.Truncate(filepath.Join(d, "MANIFEST"), 0)) }, "MANIFEST", "SHA-256"},
		"folder":       {func(t *testing.T, d string) { require.NoError(t, os.RemoveAll(filepath.Join(d, "policy"))) }, "policy/optimizer/state", "missing"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRun(t)
			for i := 1; i <= 3; i++ {
				require.NoError(t, commit(r, i))
			}
			tc.harm(t, r.checkpointDir(3))
			c, warnings, err := r.Resume()
			require.NoError(t, err)
			require.Equal(t, 2, c.Iteration)
			require.Len(t, warnings, 1)
			w := plugins.AsError(warnings[0])
			require.Equal(t, plugins.Corrupt, w.Kind)
			require.Equal(t, filepath.Join(r.checkpointDir(3), tc.file), w.Place)
			require.Contains(t, w.Message, tc.why)
			require.Equal(t, []int{1, 2}, iterations(t, r.Dir()))
			require.NoError(t, commit(r, 3), "the iteration can be made again")
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

type crash struct{}

// A host that dies, or a disk that fails, at any single operation of a whole run loses nothing that was committed.
func TestEveryOperationMayFail(t *testing.T) {
	for _, mode := range []string{"crash", "error"} {
		t.Run(mode, func(t *testing.T) {
			for at := 1; ; at++ {
				dir := filepath.Join(memoryDir(t), "r")
				ops, armed := 0, true
				where := ""
				fault := func(op, path string) error {
					if ops++; armed && ops == at {
						where = op + " " + path
						if mode == "crash" {
							panic(crash{})
						}
						return &os.PathError{Op: op, Path: path, Err: syscall.EIO}
					}
					return nil
				}
				done := -1
				r, err := func() (r *Run, err error) {
					defer func() {
						if v := recover(); v != nil {
							if _, ok := v.(crash); !ok {
								panic(v)
							}
							err = errors.New("crashed")
						}
					}()
					if r, err = create(dir, manifest(), []byte("x"), fault); err != nil {
						return r, err
					}
					r.Keep = 1
					for i := 1; i <= 3; i++ {
						if err = commit(r, i); err != nil {
							return r, err
						}
						done = i
					}
					return r, nil
				}()
				if where == "" { // Every operation had its turn.
					require.NoError(t, err)
					require.Greater(t, at, 60)
					break
				}
				if mode == "error" && err != nil {
					e := plugins.AsError(err)
					require.Equal(t, plugins.Internal, e.Kind, where)
					require.Contains(t, where, e.Place)
					require.Contains(t, e.Message, "input/output error", where)
					require.NotEmpty(t, e.Hint)
					if done >= 0 {
						require.Contains(t, e.Hint, "--resume")
					}
				}
				armed = false
				if r != nil && mode == "error" && done >= 0 {
					// The same host may try again without a new start, unless the folder got its name before the failure.
					if err != nil && len(r.Checkpoints()) > 0 && r.Checkpoints()[len(r.Checkpoints())-1] == done {
						require.NoError(t, commit(r, done+1), where)
						require.Equal(t, done+1, iterations(t, dir)[done], where)
						done++
					}
				}
				if r != nil {
					_ = r.Close()
				}
				r, err = openAfterCrash(dir)
				if done < 0 && err != nil { // It died while the folder was made.
					require.Equal(t, plugins.NotFound, plugins.KindOf(err), where)
					continue
				}
				require.NoError(t, err, where)
				c, warnings, err := r.Resume()
				require.NoError(t, err, where)
				require.Empty(t, warnings, where)
				last := -1
				if c != nil {
					last = c.Iteration
				}
				require.GreaterOrEqual(t, last, done, where)
				var want []int
				for i := 1; i <= last; i++ {
					want = append(want, i)
				}
				require.Equal(t, want, iterations(t, dir), where)
				require.NoError(t, commit(r, max(1, last+1)), where)
				left, err := filepath.Glob(filepath.Join(dir, checkpointsDir, ".*"))
				require.NoError(t, err)
				require.Empty(t, left, where)
				require.NoError(t, r.Close())
			}
		})
	}
}

// memoryDir is a temporary folder in memory where there is one: thousands of fsyncs prove nothing here.
func memoryDir(t testing.TB) string {
	dir, err := os.MkdirTemp("/dev/shm", "srpo-store")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// openAfterCrash opens a folder whose crashed run, in this same process, may still hold the lock until its file is collected.
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
	best, err := r.Best()
	require.NoError(t, err)
	require.Equal(t, 6, best.Iteration)

	p, err := r.Begin(10)
	require.NoError(t, err)
	require.NoError(t, savePolicy(p.PolicyDir(), 10))
	p.SetScore(0.9) // an evaluation's
	require.NoError(t, p.Commit(metricsOf(10)))
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

func TestFoldersThatAreRefused(t *testing.T) {
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
		`{"format_version": 2}`: plugins.Mismatch, `{"format_version": 0, "plugins": 3}`: plugins.Mismatch, `{}`: plugins.Corrupt, `{"format_version"`: plugins.Corrupt,
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
				if err := r.Append(Event{Type: Warning, Iteration: i, Message: strings.Repeat("x", g*10), Data: map[string]any{"loss": math.Inf(1)}}); err != nil {
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
	require.Equal(t, `{"iteration":2,"env_steps":2000,"episodes":64,"success_rate":0.2,"reward_mean":0,"groups_kept":0,"groups_dropped":0,"embeddings_dropped":0,"clusters":0,`+
		`"kl":null,"clip_fraction":0,"grad_norm":0,"seconds":2,"seconds_by_phase":{"rollout":1.5,"encode":1,"alpha":2,"zeta":1},"entropy":1.25}`, string(text))
	var back Metrics
	require.NoError(t, json.Unmarshal(text, &back))
	require.True(t, math.IsNaN(back.KL))
	back.KL, m.KL = 0, 0
	require.Equal(t, *m, back)
	m.Extra["kl"] = 1
	_, err = json.Marshal(m)
	require.Error(t, err)
	require.Error(t, json.Unmarshal([]byte(`{"iteration":"x"}`), &back))
	require.NoError(t, json.Unmarshal([]byte(`{"new":[1],"iteration":3}`), &back), "a later version's field")
	require.True(t, math.IsNaN(back.SuccessRate))
}

// A limit on file sizes cuts a write short in the middle of a line.
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
	require.True(t, bytes.HasSuffix(data, []byte("\n")), "no half line is left")
}

func TestReadOfPartialFolders(t *testing.T) {
	dir := t.TempDir()
	rec, err := Read(dir)
	require.NoError(t, err)
	require.Len(t, rec.Problems, 4)
	require.NoError(t, os.WriteFile(filepath.Join(dir, metricsFile), []byte("{\"iteration\":1}\nnonsense\n[]\n{\"iteration\":2}\n{\"iter"), 0o644))
	rec, err = Read(dir)
	require.NoError(t, err)
	require.Len(t, rec.Metrics, 2)
	require.Contains(t, strings.Join(rec.Problems, "\n"), "metrics.jsonl: line 2")
	_, err = Read(filepath.Join(dir, "nowhere"))
	require.Equal(t, plugins.NotFound, plugins.KindOf(err))
}

// clip is a disc that moves over a shaded background, uint8 [n, side, side, 3].
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
	for _, id := range []string{"3/libero_object/pick up: the bbq/0/5", "3/libero_object/pick up- the bbq/0/5", "12/../../x/0/1", long, long + "6"} {
		path, err := r.SaveEpisode(Episode{ID: id, Iteration: 3, Reward: 0.4, Distance: &d, Seed: 1<<64 - 1, Steps: 80}, clip(20, 64))
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

	for _, bad := range []plugins.Tensor{{}, plugins.Bytes(nil, 0, 4, 4, 3), plugins.Bytes(make([]byte, 16), 1, 4, 4, 1), plugins.Bytes(make([]byte, 5), 1, 4, 4, 3)} {
		_, err = r.SaveEpisode(Episode{ID: "5/a/0/0"}, bad)
		require.Equal(t, plugins.Corrupt, plugins.KindOf(err))
		require.Contains(t, plugins.AsError(err).Place, "5/a/0/0")
	}
}
