package attempts

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/srpo-dev/srpo/host/media"
	"github.com/srpo-dev/srpo/host/nearest"
	"github.com/srpo-dev/srpo/plugins"
)

// entry is one row of a list or of a labels file.
type entry struct {
	ID, Task, Video string
	hasTask         bool
	Success         *bool
	Demo            bool
	Progress        *float64
	Embedding       *vector
	// place is where it stands: "list.json, attempt 3" or "list.csv:4".
	place string
}

func (e entry) attempt() Attempt {
	return Attempt{ID: e.ID, Task: e.Task, Success: e.Success, Demo: e.Demo, Progress: e.Progress}
}

// vector is an embedding as a row gives it: numbers, or the path of a .npy file.
type vector struct {
	numbers []float64
	path    string
	problem string
}

// read gives the numbers, or why there are none.
func (v *vector) read(dir string) (numbers []float64, problem string) {
	if v.path == "" || v.problem != "" {
		return v.numbers, v.problem
	}
	path := v.path
	if !filepath.IsAbs(path) {
		path = filepath.Join(dir, filepath.FromSlash(path))
	}
	numbers, err := media.ReadVector(path)
	if err != nil {
		return nil, "the embedding " + v.path + ": " + plugins.AsError(err).Message
	}
	return numbers, ""
}

// oneTask is the name of the task where none is named at all.
const oneTask = "task"

// keys are the names that a row may use; the second of a pair is another word for the first.
var keys = []string{"id", "task", "success", "video", "embedding", "progress", "demo"}

var otherWords = map[string]string{"file": "video", "path": "video", "label": "success", "name": "id"}

// readEntries reads the rows of a .json, .jsonl or .csv file. The list holds what is not in rows: anchors
// and warnings.
func readEntries(path string) (*List, []entry, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, plugins.Errorf(plugins.Invalid, "cannot be read: %w", err).WithPlace("%s",
			path).WithHint("check its permissions")
	}
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")) // as some spreadsheets write
	list := &List{}
	var rows []entry
	switch strings.ToLower(filepath.Ext(path)) {
	case ".csv":
		rows, err = list.csv(path, data)
	case ".jsonl":
		rows, err = list.lines(path, data)
	default:
		rows, err = list.json(path, data)
	}
	if err != nil {
		return nil, nil, err
	}
	named := 0
	for _, r := range rows {
		if r.hasTask {
			named++
		}
	}
	for i := range rows {
		switch {
		case named == 0:
			rows[i].Task = oneTask
		case !rows[i].hasTask:
			return nil, nil, plugins.Errorf(plugins.Invalid,
				"no task, while other attempts have one").WithPlace("%s",
				rows[i].place).WithHint("name the task of each attempt, or of none when all are of one task")
		}
	}
	return list, rows, nil
}

func (l *List) csv(path string, data []byte) ([]entry, error) {
	r := csv.NewReader(bytes.NewReader(data))
	r.FieldsPerRecord = -1
	if first, _, _ := bytes.Cut(data, []byte("\n")); bytes.Count(first, []byte(";")) > bytes.Count(first,
		[]byte(",")) {
		r.Comma = ';'
	}
	bad := func(line int, err error) error {
		return plugins.Errorf(plugins.Invalid, "%w", err).WithPlace("%s:%d", path,
			line).WithHint("a first line of names (id, task, success, and video or embedding), then one line an " +
			"attempt")
	}
	head, err := r.Read()
	if errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, csvError(bad, err)
	}
	for i := range head {
		head[i] = strings.ToLower(strings.TrimSpace(head[i]))
	}
	if !slices.Contains(head, "id") && !slices.Contains(head, "name") && !slices.Contains(head, "video") &&
		!slices.Contains(head, "file") && !slices.Contains(head, "path") {
		return nil, bad(1, fmt.Errorf("no column is called id or file; there is %s", strings.Join(head, ", ")))
	}
	var rows []entry
	for {
		cells, err := r.Read()
		if errors.Is(err, io.EOF) {
			return rows, nil
		}
		if err != nil {
			return nil, csvError(bad, err)
		}
		line, _ := r.FieldPos(0)
		if len(cells) == 1 && strings.TrimSpace(cells[0]) == "" {
			continue
		}
		if len(cells) != len(head) {
			return nil, bad(line, fmt.Errorf("%d values for %d columns", len(cells), len(head)))
		}
		row := map[string]any{}
		for i, name := range head {
			cell := strings.TrimSpace(cells[i])
			if cell == "" {
				continue
			}
			row[name] = cell
			switch plainKey(name) {
			case "progress":
				row[name] = json.Number(cell)
			case "embedding":
				if v, ok := numbersIn(cell); ok {
					row[name] = v
				}
			}
		}
		e, err := l.entry(fmt.Sprintf("%s:%d", path, line), row)
		if err != nil {
			return nil, err
		}
		rows = append(rows, e)
	}
}

// csvError puts the line of a mistake of the format into the error's place.
func csvError(bad func(line int, err error) error, err error) error {
	var parse *csv.ParseError
	if errors.As(err, &parse) {
		return bad(parse.StartLine, parse.Err)
	}
	return bad(1, err)
}

// numbersIn reads an embedding in a cell: numbers between blanks, commas or semicolons, in brackets or not.
// ok is false for what begins with no number: a path.
func numbersIn(cell string) ([]any, bool) {
	words := strings.FieldsFunc(strings.Trim(cell, "[]"), func(r rune) bool {
		return strings.ContainsRune(" "+
			",;\t\n", r)
	})
	out := make([]any, len(words))
	for i, w := range words {
		if _, err := strconv.ParseFloat(w, 64); err != nil && !errors.Is(err, strconv.ErrRange) {
			if i == 0 && !strings.HasPrefix(cell, "[") {
				return nil, false
			}
		}
		out[i] = json.Number(w)
	}
	return out, true
}

func (l *List) lines(path string, data []byte) ([]entry, error) {
	var rows []entry
	for n, line := range bytes.Split(data, []byte("\n")) {
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		place := fmt.Sprintf("%s:%d", path, n+1)
		var row map[string]any
		if err := decode(place, line, &row); err != nil {
			return nil, err
		}
		e, err := l.entry(place, row)
		if err != nil {
			return nil, err
		}
		rows = append(rows, e)
	}
	return rows, nil
}

func (l *List) json(path string, data []byte) ([]entry, error) {
	var whole any
	if err := decode(path, data, &whole); err != nil {
		return nil, err
	}
	wrong := func(format string, args ...any) error {
		return plugins.Errorf(plugins.Invalid, format, args...).WithPlace("%s",
			path).WithHint(`a list [{"id": ..., "task": ..., "success": true, "embedding": [...]}, ...], or an object {"attempts": [...], "anchors": {...}}`)
	}
	object0, _ := whole.(map[string]any)
	if object, ok := whole.(map[string]any); ok {
		given, has := object["anchors"]
		anchors, ok := given.(map[string]any)
		if has && !ok && object["attempts"] != nil {
			return nil, wrong("the anchors are no object {TASK: [...]}")
		}
		if ok {
			l.Anchors = map[string][]float64{}
			for task, v := range anchors {
				numbers, ok := v.([]any)
				if !ok {
					return nil, wrong("the anchor of task %q is no list of numbers", task)
				}
				x := vectorOf(numbers)
				if x.problem != "" {
					return nil, wrong("the anchor of task %q: %s", task, x.problem)
				}
				l.Anchors[task] = x.numbers
			}
		}
		l.Encoder, _ = object["encoder"].(string)
		attempts, ok := object["attempts"]
		if !ok { // a labels file may be {"a.mp4": true, ...} or {"a.mp4": {"task": ...}}
			return l.byName(path, object)
		}
		whole = attempts
	}
	items, ok := whole.([]any)
	if !ok {
		return nil, wrong("there is no list of attempts")
	}
	matrix, err := l.matrix(path, object0, len(items))
	if err != nil {
		return nil, err
	}
	var rows []entry
	for i, item := range items {
		row, ok := item.(map[string]any)
		place := fmt.Sprintf("%s, attempt %d", path, i+1)
		if !ok {
			return nil, plugins.Errorf(plugins.Invalid, "not an object but %s", kindOf(item)).WithPlace("%s",
				place).WithHint(`{"id": ..., "task": ..., "success": true, "embedding": [...]}`)
		}
		e, err := l.entry(place, row)
		if err != nil {
			return nil, err
		}
		if matrix != nil && e.Embedding == nil && e.Video == "" {
			e.Embedding = &vector{numbers: matrix[i]}
		}
		rows = append(rows, e)
	}
	return rows, nil
}

// matrix reads the rows that an object's "embeddings" names: a .npy of as many rows as there are attempts.
// nil: there is none.
func (l *List) matrix(path string, object map[string]any, n int) ([][]float64, error) {
	name, ok := object["embeddings"].(string)
	if !ok {
		return nil, nil
	}
	fail := func(format string, args ...any) error {
		return plugins.Errorf(plugins.Invalid, format, args...).WithPlace("%s, embeddings %s", path,
			name).WithHint("save a matrix of one row an attempt, float32 or float64, with numpy.save")
	}
	h, numbers, err := media.ReadFloats(beside(path, name))
	switch {
	case err != nil:
		return nil, fail("%s", plugins.AsError(err).Message)
	case len(h.Shape) != 2 || h.Shape[0] != n || h.Fortran:
		return nil, fail("the array has shape (%s) for %d attempts", media.ShapeString(h.Shape), n)
	}
	rows := make([][]float64, n)
	for i := range rows {
		rows[i] = numbers[i*h.Shape[1] : (i+1)*h.Shape[1]]
	}
	return rows, nil
}

// byName reads {"a.mp4": true, "b.mp4": {"success": false, "task": "stack"}}.
func (l *List) byName(path string, object map[string]any) ([]entry, error) {
	names := make([]string, 0, len(object))
	for name := range object {
		names = append(names, name)
	}
	slices.Sort(names)
	var rows []entry
	for _, name := range names {
		place := fmt.Sprintf("%s, %q", path, name)
		row, ok := object[name].(map[string]any)
		switch object[name].(type) {
		case bool, nil:
			row, ok = map[string]any{"success": object[name]}, true
		}
		if !ok {
			return nil, plugins.Errorf(plugins.Invalid, "%s instead of a label",
				kindOf(object[name])).WithPlace("%s", place).
				WithHint(`a list of attempts, an object {"attempts": [...]}, or labels {"FILE": true, ...}`)
		}
		if row["video"] == nil && row["file"] == nil && row["path"] == nil {
			row["video"] = name
		}
		e, err := l.entry(place, row)
		if err != nil {
			return nil, err
		}
		rows = append(rows, e)
	}
	return rows, nil
}

// plainKey is a key's own name.
func plainKey(key string) string {
	if other, ok := otherWords[key]; ok {
		return other
	}
	return key
}

// entry makes a row of what a file says about one attempt.
func (l *List) entry(place string, row map[string]any) (entry, error) {
	e := entry{place: place}
	bad := func(hint, format string, args ...any) error {
		return plugins.Errorf(plugins.Invalid, format, args...).WithPlace("%s", place).WithHint("%s", hint)
	}
	unknown := []string{}
	for key, value := range row {
		if value == nil {
			continue
		}
		switch plainKey(strings.ToLower(strings.TrimSpace(key))) {
		case "id":
			if e.ID = text(value); e.ID == "" {
				return e, bad("a word or a number that no other attempt has", "the id is %s", kindOf(value))
			}
		case "task":
			if e.Task, e.hasTask = text(value), true; e.Task == "" {
				return e, bad("the task's name", "the task is %s", kindOf(value))
			}
		case "video":
			if e.Video = text(value); e.Video == "" {
				return e, bad("the video's path, relative to this file", "the video is %s", kindOf(value))
			}
		case "success":
			v, known, ok := truth(value)
			if !ok {
				return e, bad("true, false, or null where nobody knows", "success is %v", value)
			}
			if known {
				e.Success = &v
			}
		case "demo":
			v, _, ok := truth(value)
			if !ok {
				return e, bad("true or false", "demo is %v", value)
			}
			e.Demo = v
		case "progress":
			n, ok := value.(json.Number)
			p, err := strconv.ParseFloat(string(n), 64)
			if !ok || err != nil || math.IsNaN(p) || math.IsInf(p, 0) {
				return e, bad("a number from 0 to 1, higher is further", "progress is %v", value)
			}
			e.Progress = &p
		case "embedding":
			switch v := value.(type) {
			case []any:
				e.Embedding = vectorOf(v)
			case string:
				e.Embedding = &vector{path: v}
			default:
				e.Embedding = &vector{problem: "the embedding is " + kindOf(value) + ", not a list of numbers"}
			}
		default:
			unknown = append(unknown, key)
		}
	}
	if e.ID == "" {
		e.ID = e.Video
	}
	if e.ID == "" {
		return e, bad("give each attempt an id of its own", "the attempt has no id")
	}
	if e.Demo && (e.Success == nil || !*e.Success) {
		return e, bad("label it success = true, or not demo", "attempt %q is a demonstration and no success", e.ID)
	}
	slices.Sort(unknown)
	for _, key := range unknown {
		l.unknownKey(key)
	}
	return e, nil
}

// unknownKey warns of a name that means nothing here, once, when it looks like one that was meant. Others
// are somebody's own notes.
func (l *List) unknownKey(key string) {
	meant := ""
	if len(key) > 3 {
		meant = nearest.To(key, keys)
	}
	warning := fmt.Sprintf("%q is not read; did you mean %q?", key, meant)
	if meant != "" && !slices.Contains(l.Warnings, warning) {
		l.Warnings = append(l.Warnings, warning)
	}
}

// vectorOf reads numbers; null is NaN, and what is too large is infinite: both are for the reward to
// refuse, with the index.
func vectorOf(items []any) *vector {
	v := &vector{numbers: make([]float64, len(items))}
	for i, item := range items {
		switch x := item.(type) {
		case nil:
			v.numbers[i] = math.NaN()
		case json.Number:
			f, err := strconv.ParseFloat(string(x), 64) // out of range gives infinity, too
			if err != nil && !errors.Is(err, strconv.ErrRange) {
				return &vector{problem: fmt.Sprintf("the embedding has %q at index %d, which is no number",
					string(x), i)}
			}
			v.numbers[i] = f
		default:
			return &vector{problem: fmt.Sprintf("the embedding has %s at index %d, not a number", kindOf(item), i)}
		}
	}
	return v
}

// text is a name: a string that is not empty, or a number as written.
func text(v any) string {
	switch x := v.(type) {
	case string:
		return strings.TrimSpace(x)
	case json.Number:
		return string(x)
	}
	return ""
}

// truth reads a label; known is false for one that says that nobody knows.
func truth(v any) (value, known, ok bool) {
	if n, is := v.(json.Number); is {
		v = string(n)
	}
	switch x := v.(type) {
	case bool:
		return x, true, true
	case string:
		switch strings.ToLower(strings.TrimSpace(x)) {
		case "true", "1", "1.0", "yes", "success":
			return true, true, true
		case "false", "0", "0.0", "no", "failure", "fail":
			return false, true, true
		case "", "null", "none", "unknown", "?", "nan":
			return false, false, true
		}
	}
	return false, false, false
}

func kindOf(v any) string {
	switch x := v.(type) {
	case nil:
		return "null"
	case bool:
		return strconv.FormatBool(x)
	case string:
		if x == "" {
			return "empty"
		}
		return strconv.Quote(x)
	case json.Number:
		return "the number " + string(x)
	case []any:
		return "a list"
	}
	return "an object"
}

// decode reads JSON, with the NaN and Infinity that Python's json module writes taken for null and numbers
// beyond all bounds.
func decode(place string, data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(plainNumbers(data)))
	d.UseNumber()
	err := d.Decode(v)
	if err == nil {
		if _, more := d.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("there is more behind its end")
		}
	}
	if err == nil {
		return nil
	}
	at := d.InputOffset()
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		at = syntax.Offset
	}
	switch {
	case len(bytes.TrimSpace(data)) == 0:
		err = errors.New("it is empty")
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		err, at = errors.New("the file ends in the middle"), int64(len(data))
	}
	if !strings.Contains(place, ".jsonl:") {
		before := data[:min(int(max(at-1, 0)), len(data))]
		place = fmt.Sprintf("%s:%d:%d", place, 1+bytes.Count(before, []byte("\n")),
			len(before)-bytes.LastIndexByte(before, '\n'))
	}
	return plugins.Errorf(plugins.Invalid, "this is no JSON: %w", err).WithPlace("%s",
		place).WithHint("mend the file there, or write it again")
}

// plainNumbers replaces NaN by null, and Infinity by a number that is read as infinite.
func plainNumbers(data []byte) []byte {
	if !bytes.Contains(data, []byte("NaN")) && !bytes.Contains(data, []byte("Infinity")) {
		return data
	}
	out := make([]byte, 0, len(data)+1024)
	inString := false
	for i := 0; i < len(data); i++ {
		switch {
		case inString && data[i] == '\\' && i+1 < len(data):
			out = append(out, data[i])
			i++
		case data[i] == '"':
			inString = !inString
		case inString:
		case bytes.HasPrefix(data[i:], []byte("NaN")):
			out = append(out, "null"...)
			i += len("NaN") - 1
			continue
		case bytes.HasPrefix(data[i:], []byte("Infinity")):
			out = append(out, "9e999"...)
			i += len("Infinity") - 1
			continue
		}
		out = append(out, data[i])
	}
	return out
}
