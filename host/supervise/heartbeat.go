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

// heartbeat receives a byte from a process once per interval, written to a pipe by a thread of the SDK. It
// tells a call that takes long from a process that is stopped, or whose interpreter is blocked.
//
// A process that has sent heartbeats and falls silent during a call is killed, long before deadlines that
// are made for training. A process that never sent one, as with an older SDK, has only its deadlines.
type heartbeat struct {
	r, w     *os.File
	interval time.Duration
	silence  time.Duration // the longest silence in a call; 0: unlimited

	beats   atomic.Uint64
	calls   atomic.Int64 // in progress
	loading atomic.Int64 // the calls in progress that load libraries, during which Python holds its lock
	missed  atomic.Int64 // consecutive beats, during calls
	// killedAfter is the silence for which the process was killed, in nanoseconds; 0: it was not.
	killedAfter atomic.Int64
	closeWriter sync.Once
}

func newHeartbeat(silence time.Duration) (*heartbeat, error) {
	h := &heartbeat{silence: silence, interval: time.Second}
	if silence > 0 {
		h.interval = min(h.interval, max(silence/10, 20*time.Millisecond))
	}
	var err error
	h.r, h.w, err = os.Pipe()
	return h, err
}

// variable returns the value of [plugins.HeartbeatEnv] for a process that inherits the write end as
// descriptor fd.
func (h *heartbeat) variable(fd int) string {
	return fmt.Sprintf("%d,%d", fd, h.interval.Milliseconds())
}

// watch counts heartbeats until the process has exited. It calls silent once, with the length of the
// silence, when the process has been silent in a call for too long.
func (h *heartbeat) watch(exited <-chan struct{}, silent func(time.Duration)) {
	go func() {
		b := make([]byte, 64)
		for {
			n, err := h.r.Read(b)
			h.beats.Add(uint64(n))
			if err != nil {
				return
			}
		}
	}()
	go func() {
		// Silence is counted in ticks of the host, not in time: a host that was stopped, or a machine that
		// slept, must not blame the plugin.
		tick := time.NewTicker(h.interval)
		defer tick.Stop()
		for last := uint64(0); ; {
			select {
			case <-exited:
				return
			case <-tick.C:
			}
			beats := h.beats.Load()
			switch {
			case beats != last, beats == 0, h.calls.Load() == 0:
				last = beats
				h.missed.Store(0)
			case h.silence > 0 && time.Duration(h.missed.Add(1))*h.interval >= h.timeout():
				timeout := h.timeout()
				h.killedAfter.Store(int64(timeout))
				silent(timeout)
				return
			}
		}
	}()
}

// loadingFactor multiplies the permitted silence while libraries are loaded, as Configure has five times
// the start timeout.
const loadingFactor = 5

// timeout returns the permitted silence.
func (h *heartbeat) timeout() time.Duration {
	if h.loading.Load() > 0 {
		return loadingFactor * h.silence
	}
	return h.silence
}

// alive reports whether a recent heartbeat was received.
func (h *heartbeat) alive() bool { return h.beats.Load() > 0 && h.missed.Load() < 3 }

// started closes the write end in the host, once the process has inherited it.
func (h *heartbeat) started() { h.closeWriter.Do(func() { _ = h.w.Close() }) }

func (h *heartbeat) close() {
	h.started()
	_ = h.r.Close()
}

// clockTick is the time unit of /proc/PID/stat, the same on every Linux that Go supports.
const clockTick = time.Second / 100

// usage is what process groups have used, and what they need now.
type usage struct {
	cpuTime time.Duration // of the processes, and of their children that ended
	waiting bool          // a thread runs, is runnable, or waits for a disk
	known   bool          // false without /proc
}

func usageOf(groups ...int) (u usage) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		f := statFields(path)
		if len(f) < 15 {
			continue
		}
		if group, err := strconv.Atoi(string(f[2])); err != nil || !slices.Contains(groups, group) {
			continue
		}
		u.known = true
		for _, v := range f[11:15] { // utime, stime, cutime, cstime
			n, _ := strconv.ParseInt(string(v), 10, 64)
			u.cpuTime += time.Duration(n) * clockTick
		}
		threads, _ := filepath.Glob(filepath.Join(filepath.Dir(path), "task", "[0-9]*", "stat"))
		for _, thread := range threads {
			if f := statFields(thread); len(f) > 0 && (f[0][0] == 'R' || f[0][0] == 'D') {
				u.waiting = true
			}
		}
	}
	return u
}

// statFields returns the fields after the name, which may contain any character: state, parent, group, ...
// It returns nil for a process that has ended.
func statFields(path string) [][]byte {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	return bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
}

// isWorking reports whether process groups did work between two samples: they used their share of the
// processor or, on a busy machine or a slow disk, were waiting for it in both samples. Without /proc there
// is no evidence, and it returns false.
func isWorking(before, after usage, window time.Duration) bool {
	if !before.known || !after.known {
		return false
	}
	return float64(after.cpuTime-before.cpuTime) >= minCPUShare*float64(window) || before.waiting && after.waiting
}
