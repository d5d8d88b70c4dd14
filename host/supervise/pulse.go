package supervise

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// pulse is what the host hears of a process's heart: the SDKs write a byte into a pipe now and then, from a thread of their own, so that a call which takes long is
// told from a process that is stopped, or whose interpreter is held by something that does not come back.
//
// A process that has beaten and falls silent in a call is killed, long before deadlines that are made for training. One that never beat, as an SDK of before
// does not, has its deadlines alone.
type pulse struct {
	r, w    *os.File
	every   time.Duration // between beats
	silence time.Duration // 0: any

	beats  atomic.Uint64
	calls  atomic.Int64 // in progress
	slow   atomic.Int64 // of these, those in which whole libraries are loaded, which a Python does with its lock held
	missed atomic.Int64 // beats in a row, in calls
	over   atomic.Int64 // nanoseconds of the silence that it was killed for; 0: it was not
	once   sync.Once
}

func newPulse(silence time.Duration) (*pulse, error) {
	p := &pulse{silence: silence, every: time.Second}
	if silence > 0 {
		p.every = min(p.every, max(silence/10, 20*time.Millisecond))
	}
	var err error
	p.r, p.w, err = os.Pipe()
	return p, err
}

// variable is the value of [plugins.HeartbeatEnv] for a process that inherits the write end as descriptor fd.
func (p *pulse) variable(fd int) string { return fmt.Sprintf("%d,%d", fd, p.every.Milliseconds()) }

// listen hears the process until it has exited, and calls silent once when it has been silent in a call for too long, with how long.
func (p *pulse) listen(exited <-chan struct{}, silent func(time.Duration)) {
	go func() {
		b := make([]byte, 64)
		for {
			n, err := p.r.Read(b)
			p.beats.Add(uint64(n))
			if err != nil {
				return
			}
		}
	}()
	go func() {
		// Time is counted in our own ticks: a host that was itself stopped, or a machine that slept, hears nothing meanwhile and must not blame the plugin.
		tick := time.NewTicker(p.every)
		defer tick.Stop()
		for last := uint64(0); ; {
			select {
			case <-exited:
				return
			case <-tick.C:
			}
			beats := p.beats.Load()
			switch {
			case beats != last, beats == 0, p.calls.Load() == 0:
				last = beats
				p.missed.Store(0)
			case p.silence > 0 && time.Duration(p.missed.Add(1))*p.every >= p.allowed():
				over := p.allowed()
				p.over.Store(int64(over))
				silent(over)
				return
			}
		}
	}()
}

// slowly is how many times the silence a call that loads libraries may be silent, as Configure has five times the time of a start.
const slowly = 5

func (p *pulse) allowed() time.Duration {
	if p.slow.Load() > 0 {
		return slowly * p.silence
	}
	return p.silence
}

// beating says whether the process was heard lately.
func (p *pulse) beating() bool { return p.beats.Load() > 0 && p.missed.Load() < 3 }

// started closes the end that is the process's.
func (p *pulse) started() { p.once.Do(func() { _ = p.w.Close() }) }

func (p *pulse) close() {
	p.started()
	_ = p.r.Close()
}

// clockTick is the unit of /proc/PID/stat, the same on every Linux that Go runs on.
const clockTick = time.Second / 100

// effort is what process groups have done so far.
type effort struct {
	spent time.Duration // processor time of its processes, and of their children that ended
	wants bool          // one of its threads wants the processor, or waits for a disk, right now
	known bool          // there is a /proc to read it from
}

func effortOf(groups ...int) (e effort) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		f := statFields(path)
		if len(f) < 15 {
			continue
		}
		if group, err := strconv.Atoi(string(f[2])); err != nil || !slices.Contains(groups, group) {
			continue
		}
		e.known = true
		for _, v := range f[11:15] { // utime, stime, and both of children that were waited for
			n, _ := strconv.ParseInt(string(v), 10, 64)
			e.spent += time.Duration(n) * clockTick
		}
		threads, _ := filepath.Glob(filepath.Join(filepath.Dir(path), "task", "[0-9]*", "stat"))
		for _, thread := range threads {
			if f := statFields(thread); len(f) > 0 && (f[0][0] == 'R' || f[0][0] == 'D') {
				e.wants = true
			}
		}
	}
	return e
}

// statFields are those behind the name, which may hold anything: state, parent, group, ...
func statFields(path string) [][]byte {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil // it ended
	}
	return bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
}

// atWork says whether a group worked between two looks: it had its share of the processor or, on a machine that gives it none, or that makes it wait for a disk,
// both looks found it wanting to.
func atWork(before, after effort, window time.Duration) bool {
	if !before.known || !after.known {
		return false
	}
	return float64(after.spent-before.spent) >= leastWork*float64(window) || before.wants && after.wants
}
