package report

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"os"
	"path/filepath"
	"sort"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/srpo-dev/srpo/host/store"
	"github.com/srpo-dev/srpo/plugins"
)

// TensorBoard writes scalars into an event file of TensorBoard: TFRecord frames (length, masked CRC-32C of
// the length, data, masked CRC-32C of the data) around Event messages of TensorFlow's event.proto.
type TensorBoard struct {
	file *os.File
	w    *bufio.Writer
}

// tensorBoardPrefix is the prefix of the files that [OpenTensorBoard] writes and replaces.
const tensorBoardPrefix = "events.out.tfevents."

// OpenTensorBoard creates an event file in folder dir with the past iterations of a run. It replaces the
// event files of earlier starts of the run, so that each iteration is shown once. The times of past
// iterations are counted from created, when the run began.
func OpenTensorBoard(dir string, created time.Time, past []store.Metrics) (*TensorBoard, error) {
	fail := func(path string, err error) (*TensorBoard, error) {
		return nil, plugins.Errorf(plugins.Invalid, "the TensorBoard file cannot be written: %w",
			err).WithPlace("%s", path).WithHint("check the folder, or run without --tensorboard")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fail(dir, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fail(dir, err)
	}
	for _, e := range entries {
		if len(e.Name()) > len(tensorBoardPrefix) && e.Name()[:len(tensorBoardPrefix)] == tensorBoardPrefix &&
			filepath.Ext(e.Name()) == ".srpo" {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return fail(dir, err)
			}
		}
	}
	path := filepath.Join(dir, fmt.Sprintf("%s%010d.srpo", tensorBoardPrefix, created.Unix()))
	f, err := os.Create(path)
	if err != nil {
		return fail(path, err)
	}
	t := &TensorBoard{file: f, w: bufio.NewWriter(f)}
	version := protowire.AppendTag(nil, 3, protowire.BytesType) // Event.file_version
	version = protowire.AppendString(version, "brain.Event:2")
	if err := t.record(event(created, 0, version)); err != nil {
		_ = f.Close()
		return nil, err
	}
	at := created
	for _, m := range past {
		if m.Seconds > 0 {
			at = at.Add(time.Duration(m.Seconds * float64(time.Second)))
		}
		if err := t.Add(m, at); err != nil {
			_ = f.Close()
			return nil, err
		}
	}
	return t, nil
}

// Add writes the metrics of one iteration at step m.Iteration, without those that are NaN.
func (t *TensorBoard) Add(m store.Metrics, at time.Time) error {
	values := map[string]float64{
		"rollout/success_rate": m.SuccessRate, "rollout/reward_mean": m.RewardMean,
		"rollout/episodes": float64(m.Episodes), "rollout/env_steps": float64(m.EnvSteps),
		"rollout/groups_kept": float64(m.GroupsKept), "rollout/groups_dropped": float64(m.GroupsDropped),
		"reward/clusters": float64(m.Clusters), "reward/embeddings_dropped": float64(m.EmbeddingsDropped),
		"update/kl": m.KL, "update/clip_fraction": m.ClipFraction, "update/grad_norm": m.GradNorm,
		"seconds/iteration": m.Seconds,
	}
	for k, v := range m.SecondsByPhase {
		values["seconds/"+k] = v
	}
	for k, v := range m.Extra {
		values["extra/"+k] = v
	}
	return t.scalars(int64(m.Iteration), at, values)
}

// scalars writes values by tag at a step.
func (t *TensorBoard) scalars(step int64, at time.Time, values map[string]float64) error {
	tags := make([]string, 0, len(values))
	for k := range values {
		tags = append(tags, k)
	}
	sort.Strings(tags)
	var summary []byte
	for _, tag := range tags {
		v := values[tag]
		if math.IsNaN(v) || math.IsInf(v, 0) {
			continue
		}
		var value []byte // Summary.Value
		value = protowire.AppendTag(value, 1, protowire.BytesType)
		value = protowire.AppendString(value, tag)
		value = protowire.AppendTag(value, 2, protowire.Fixed32Type) // simple_value
		value = protowire.AppendFixed32(value, math.Float32bits(float32(v)))
		summary = protowire.AppendTag(summary, 1, protowire.BytesType)
		summary = protowire.AppendBytes(summary, value)
	}
	field := protowire.AppendTag(nil, 5, protowire.BytesType) // Event.summary
	field = protowire.AppendBytes(field, summary)
	if err := t.record(event(at, step, field)); err != nil {
		return err
	}
	return t.flush()
}

// event encodes an Event with one more field.
func event(at time.Time, step int64, field []byte) []byte {
	b := protowire.AppendTag(nil, 1, protowire.Fixed64Type) // wall_time
	b = protowire.AppendFixed64(b, math.Float64bits(float64(at.UnixNano())/1e9))
	b = protowire.AppendTag(b, 2, protowire.VarintType) // step
	b = protowire.AppendVarint(b, uint64(step))
	return append(b, field...)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// masked returns the CRC-32C of data as TFRecord stores it.
func masked(data []byte) uint32 {
	c := crc32.Checksum(data, castagnoli)
	return (c>>15 | c<<17) + 0xa282ead8
}

func (t *TensorBoard) record(data []byte) error {
	var head [12]byte
	binary.LittleEndian.PutUint64(head[:8], uint64(len(data)))
	binary.LittleEndian.PutUint32(head[8:], masked(head[:8]))
	var tail [4]byte
	binary.LittleEndian.PutUint32(tail[:], masked(data))
	for _, part := range [][]byte{head[:], data, tail[:]} {
		if _, err := t.w.Write(part); err != nil {
			return t.fail(err)
		}
	}
	return nil
}

func (t *TensorBoard) flush() error {
	if err := t.w.Flush(); err != nil {
		return t.fail(err)
	}
	return nil
}

func (t *TensorBoard) fail(err error) error {
	return plugins.Errorf(plugins.Exhausted, "the TensorBoard file cannot be written: %w", err).
		WithPlace("%s", t.file.Name()).
		WithHint("free space on the disk, or run without --tensorboard")
}

// Close closes the file.
func (t *TensorBoard) Close() error {
	err := t.flush()
	if e := t.file.Close(); err == nil && e != nil {
		err = t.fail(e)
	}
	return err
}
