package tiny

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"syscall"

	"github.com/srpo-dev/srpo/plugins"
)

// A checkpoint is one file: 8 bytes of magic, the header's length as uint32, the header (JSON), the parts
// that the header lists as consecutive float32 vectors, and the SHA-256 of everything before it. Numbers
// are little-endian.
const (
	fileName  = "tiny.policy"
	fileMagic = "SRPOTNY1"
)

// header is the readable part of a checkpoint.
type header struct {
	Format  int       `json:"format"`
	Shape   shape     `json:"shape"`
	Weights []section `json:"weights"` // layout of the parameter vector
	// The env that the policy acts in.
	Proprio []string  `json:"proprio"`
	Actions []string  `json:"actions"`
	Low     []float32 `json:"low"`
	High    []float32 `json:"high"`

	Horizon   float64   `json:"horizon"`
	AdamSteps int       `json:"adam_steps"`
	Updates   []applied `json:"updates"`
	Imitated  []uint64  `json:"imitated"`
	// Parts lists the vectors that follow: weights, adam.m, adam.v, proprio.mean, proprio.scale,
	// action.units (missing in older files, which means all 1) and, if training has started, reference.
	Parts []section `json:"parts"`
}

// Save writes tiny.policy to folder and fsyncs it. The file contains weights, optimiser state, the
// starting policy, scales and applied ids. There is no random generator's state to save, see the package
// comment. Errors: NotFound for a missing folder, Invalid for a folder that is not writable, Exhausted
// for a full disk.
func (p *Policy) Save(_ context.Context, folder string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.ready(); err != nil {
		return err
	}
	s := &p.state
	h := header{
		Format:    1,
		Shape:     p.net.shape,
		Weights:   p.net.names,
		Proprio:   p.env.Proprio,
		Actions:   p.env.Action.Names,
		Low:       p.env.Action.Low,
		High:      p.env.Action.High,
		Horizon:   s.horizon,
		AdamSteps: s.adam.steps,
		Updates:   s.updates,
		Imitated:  s.imitated,
	}
	var data bytes.Buffer
	for _, part := range s.parts() {
		if *part.data == nil {
			continue
		}
		h.Parts = append(h.Parts, section{part.name, []int{len(*part.data)}})
		data.Write(plugins.Floats(*part.data).Data)
	}
	head, err := json.Marshal(h)
	if err != nil {
		return plugins.Errorf(plugins.Internal, "the checkpoint's header: %w", err).WithPlace("policy tiny")
	}
	var out bytes.Buffer
	out.WriteString(fileMagic)
	out.Write(binary.LittleEndian.AppendUint32(nil, uint32(len(head))))
	out.Write(head)
	out.Write(data.Bytes())
	sum := sha256.Sum256(out.Bytes())
	out.Write(sum[:])
	if err := writeAtomic(folder, out.Bytes()); err != nil {
		return saveError(folder, out.Len(), err)
	}
	return nil
}

// saveError returns the plugin error for err, which occurred while writing a checkpoint of size bytes to
// folder.
func saveError(folder string, size int, err error) error {
	fail := func(kind plugins.ErrorKind, hint string, args ...any) error {
		return plugins.Errorf(kind, "cannot save: %w", err).WithPlace("policy tiny").WithHint(hint, args...)
	}
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		free := "unknown"
		if s := (syscall.Statfs_t{}); syscall.Statfs(folder, &s) == nil {
			free = fmt.Sprintf("%d kB", s.Bavail*uint64(s.Bsize)>>10)
		}
		return fail(plugins.Exhausted, "the disk or the quota is full (checkpoint: %d kB, free: %s): "+
			"free some space, or choose another --out", size>>10, free)
	case errors.Is(err, syscall.EFBIG):
		return fail(plugins.Exhausted, "raise `ulimit -f`: the file of %d kB exceeds the system's limit", size>>10)
	case errors.Is(err, fs.ErrNotExist):
		return fail(plugins.NotFound, "create the folder again: it was removed")
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return fail(plugins.Invalid, "make the folder writable, or choose another --out")
	}
	return fail(plugins.Internal, "see the system's log")
}

// writeAtomic writes data to fileName in folder and fsyncs file and folder. After an error or a crash the
// file is either complete or unchanged.
func writeAtomic(folder string, data []byte) error {
	f, err := os.CreateTemp(folder, fileName+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(folder, fileName))
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	d, err := os.Open(folder)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// part is a vector of the state and its name in a checkpoint file.
type part struct {
	name string
	data *[]float32
}

// parts returns the vectors of the state in the order of a file.
func (s *state) parts() []part {
	return []part{{"weights", &s.weights}, {"adam.m", &s.adam.m}, {"adam.v", &s.adam.v}, {"proprio.mean", &s.mean},
		{"proprio.scale", &s.scale}, {"action.units", &s.units}, {"reference", &s.reference}}
}

// Load restores the state that Save wrote, drops recorded chunks and returns the last update or imitation
// id in the state (0: none). Errors: NotFound without a checkpoint in folder, Corrupt for a truncated or
// modified file, Mismatch for another network or env. On error nothing changes.
func (p *Policy) Load(_ context.Context, folder string) (uint64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.load(folder)
}

// BeginRun is Load for a new run: it resets the optimiser and makes the loaded weights the starting policy.
func (p *Policy) BeginRun(_ context.Context, folder string) (uint64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	last, err := p.load(folder)
	if err != nil {
		return 0, err
	}
	p.state.adam = newAdam(p.net.size)
	if p.state.reference != nil { // nil: the policy is untrained, and the first Update sets the reference
		p.state.reference = append([]float32(nil), p.state.weights...)
	}
	return last, nil
}

// load implements Load; the caller holds the lock.
func (p *Policy) load(folder string) (uint64, error) {
	if err := p.ready(); err != nil {
		return 0, err
	}
	path := filepath.Join(folder, fileName)
	fail := func(e *plugins.Error) (uint64, error) { return 0, e.WithPlace("policy tiny, %s", path) }
	data, err := os.ReadFile(path)
	if err != nil {
		kind := plugins.Internal
		if errors.Is(err, fs.ErrNotExist) {
			kind = plugins.NotFound
		}
		return fail(plugins.Errorf(kind, "cannot load: %w", err).
			WithHint("give a folder with a checkpoint of this policy (%s)", fileName))
	}
	h, payload, problem := parse(data)
	if problem != nil {
		return fail(problem)
	}
	if problem := p.checkCompatible(h); problem != nil {
		return fail(problem)
	}
	s, problem := p.readState(h, payload)
	if problem == nil {
		problem = s.check()
	}
	if problem != nil {
		return fail(problem)
	}
	p.state = s
	p.dropAllRecords()
	var last uint64
	for _, a := range s.updates {
		last = max(last, a.ID)
	}
	for _, id := range s.imitated { // updates and imitations share one sequence of ids
		last = max(last, id)
	}
	return last, nil
}

// readState returns the state in a checkpoint's payload, or a Corrupt error if parts are missing or do
// not match the network's sizes.
func (p *Policy) readState(h header, payload []byte) (state, *plugins.Error) {
	s := state{units: ones(p.net.Actions), horizon: h.Horizon, updates: h.Updates, imitated: h.Imitated}
	s.adam.steps = h.AdamSteps
	sizes := map[string]int{
		"weights":       p.net.size,
		"adam.m":        p.net.size,
		"adam.v":        p.net.size,
		"reference":     p.net.size,
		"proprio.mean":  p.net.Proprio,
		"proprio.scale": p.net.Proprio,
		"action.units":  p.net.Actions,
	}
	for _, sec := range h.Parts {
		n, known := sizes[sec.Name]
		if !known || len(sec.Shape) != 1 || sec.Shape[0] != n || 4*n > len(payload) {
			return s, plugins.Errorf(plugins.Corrupt, "part %s has shape %v, want [%d], and %d bytes are left",
				sec.Name, sec.Shape, n, len(payload)).WithHint("use another checkpoint")
		}
		for _, part := range s.parts() {
			if part.name == sec.Name {
				*part.data = plugins.Tensor{DType: plugins.Float32, Data: payload[:4*n]}.Float32s()
			}
		}
		payload = payload[4*n:]
	}
	if s.weights == nil || s.adam.m == nil || s.adam.v == nil || s.mean == nil || s.scale == nil ||
		len(payload) != 0 {
		return s, plugins.Errorf(plugins.Corrupt, "parts are missing, or there are %d bytes too many", len(payload)).
			WithHint("use another checkpoint")
	}
	return s, nil
}

// check returns a Corrupt error if a value of the state is out of range.
func (s *state) check() *plugins.Error {
	corrupt := func(format string, args ...any) *plugins.Error {
		return plugins.Errorf(plugins.Corrupt, format, args...).WithHint("use an earlier checkpoint")
	}
	for _, part := range s.parts() {
		if !finite(*part.data) {
			return corrupt("part %s has numbers that are not finite", part.name)
		}
	}
	if math.IsNaN(s.horizon) || s.horizon <= 0 {
		return corrupt("the horizon is %v, must be above 0", s.horizon)
	}
	negative := func(v float32) bool { return v < 0 }
	notPositive := func(v float32) bool { return v <= 0 }
	if s.adam.steps < 0 || slices.ContainsFunc(s.adam.v, negative) || slices.ContainsFunc(s.scale, notPositive) {
		return corrupt("steps or squares of the optimiser are negative, or a proprio scale is not above 0")
	}
	if slices.ContainsFunc(s.units, func(v float32) bool { return !(v > 0 && v <= 1) }) {
		return corrupt("action units are %v, must be above 0 and at most 1", s.units)
	}
	return nil
}

// parse checks the format and checksum of a checkpoint file and returns its header and the bytes between
// header and checksum.
func parse(data []byte) (header, []byte, *plugins.Error) {
	var h header
	corrupt := func(format string, args ...any) (header, []byte, *plugins.Error) {
		return h, nil, plugins.Errorf(plugins.Corrupt, format, args...).
			WithHint("the file is damaged; use another checkpoint")
	}
	const frame = len(fileMagic) + 4
	if len(data) < frame+sha256.Size {
		return corrupt("the file of %d bytes was cut short", len(data))
	}
	if string(data[:len(fileMagic)]) != fileMagic {
		return corrupt("not a checkpoint of this version of the policy (it begins with %q)", data[:len(fileMagic)])
	}
	body, sum := data[:len(data)-sha256.Size], data[len(data)-sha256.Size:]
	whole := sha256.Sum256(body) == [sha256.Size]byte(sum)
	n := int(binary.LittleEndian.Uint32(data[len(fileMagic):]))
	if n > len(body)-frame {
		return corrupt("the file was cut short within its header of %d bytes", n)
	}
	err := json.Unmarshal(body[frame:frame+n], &h)
	payload := body[frame+n:]
	if err == nil && !whole {
		want := 0
		for _, s := range h.Parts {
			want += 4 * max(plugins.Elements(s.Shape), 0)
		}
		if want > len(payload) {
			return corrupt("the file was cut short: %d of %d bytes", len(data), frame+n+want+sha256.Size)
		}
	}
	if !whole {
		return corrupt("the SHA-256 does not match: at least one byte was changed")
	}
	if err != nil {
		return corrupt("header: %v", err)
	}
	if h.Format != 1 {
		return corrupt("the format is %d, but this version reads format 1", h.Format)
	}
	return h, payload, nil
}

// checkCompatible returns a Mismatch error if a checkpoint belongs to another network or env.
func (p *Policy) checkCompatible(h header) *plugins.Error {
	mismatch := func(format string, args ...any) *plugins.Error {
		return plugins.Errorf(plugins.Mismatch, format, args...).WithHint("use a checkpoint made for this env")
	}
	if len(h.Actions) != p.env.Action.Dim() || len(h.Proprio) != len(p.env.Proprio) {
		return mismatch(
			"the checkpoint was made for an env with %d action and %d proprio values, this one has %d and %d",
			len(h.Actions),
			len(h.Proprio),
			p.env.Action.Dim(),
			len(p.env.Proprio),
		).
			WithHint("use a checkpoint made for this env, or leave it out to imitate the env's expert first")
	}
	if !reflect.DeepEqual(h.Shape, p.net.shape) {
		return mismatch(
			"the checkpoint's network is %s, the configured one %s",
			describe(h.Shape),
			describe(p.net.shape),
		).
			WithHint("use the policy.tiny settings that the checkpoint was made with")
	}
	a := p.env.Action
	if !slices.Equal(h.Proprio, p.env.Proprio) {
		return mismatch("the checkpoint's env has proprio %q, this one %q", h.Proprio, p.env.Proprio)
	}
	if !slices.Equal(h.Actions, a.Names) || !slices.Equal(h.Low, a.Low) || !slices.Equal(h.High, a.High) {
		return mismatch("the checkpoint's env takes actions %q in %v to %v, this one %q in %v to %v",
			h.Actions, h.Low, h.High, a.Names, a.Low, a.High)
	}
	return nil
}

// describe returns the shape as JSON, for error messages.
func describe(s shape) string {
	b, err := json.Marshal(s)
	if err != nil {
		return fmt.Sprintf("%+v", s)
	}
	return string(b)
}
