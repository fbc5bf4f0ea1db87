"""What `diversevis --help` and `diversevis COMMAND --help` print."""

HELP = """\
diversevis: to what is this unit invariant?

Finds a batch of images that all drive one hidden unit of a deep network while being as different
from one another as possible (Cadena et al. 2018).

  diversevis run [key=value ...]       make the images, measure them, write a run folder
  diversevis layers model=...          list a network's layers: channels, receptive field, stride
  diversevis weights model=...         fetch and check a network's weights ahead of time
  diversevis analyze FOLDER...         measure the invariances of finished runs
  diversevis compare A B               compare the invariances of two sets of analyzed runs
  diversevis status [ROOT]             what of all runs is finished, running, failed, lost
  diversevis retry [ROOT]              do again what failed, was lost or never began
  diversevis collect ROOT              every unit of every finished run as one table
  diversevis COMMAND --help            help on one command
  diversevis --version

Try:

  diversevis run                                       analytic network, nothing to download
  diversevis run model=vgg19 layer=conv2_1 unit=12 analysis=all
"""

RUN_HELP = """\
diversevis run [-m] [key=value ...]

Makes n diverse images for every unit named and writes them, with measurements and pictures, to
root/model/layer/units/v001 (v002, ...). The last line printed is that folder. Work that is finished
is not done again, and what was killed goes on from its last checkpoint. With -m, values with commas
are swept, and units are cut into jobs that fill a device each.

Examples:
  diversevis run                                          analytic network, nothing to download
  diversevis run model=vgg19 layer=conv2_1 unit=12        one unit
  diversevis run model=vgg19 layer=conv2_2 unit=all       a whole layer, computed side by side
  diversevis run model=resnet50 layer=layer1.1 unit=0-15 objective.diversity=0.5 device=cuda
  diversevis run -m model=vgg19 layer=conv2_1,conv2_2 unit=all seed=0,1  a sweep, in jobs
  diversevis run -m model=vgg19 layer=conv3_1 unit=all hydra/launcher=slurm  on a cluster
  diversevis run model=vgg19 layer=conv2_1 unit=12 analysis=all         with all measures
  diversevis run objective=threshold objective.fraction=0.85            free of the weight
  diversevis run objective=path                           response against diversity, and its knee
  diversevis run experiment=cadena2018                    the paper's published setting
  diversevis run model=torchvision model.name=alexnet layer=features.3 unit=0

What people set:
  model        energy, vgg19, resnet50, torchvision (model.name=...), custom (model.target=...)
  layer        conv3_1, layer1.0.conv2, ...; `diversevis layers model=...` lists them
  unit         12, 0-63, [1,5,9] or all
  n            images per unit (6)
  seed         same seed and device, same images (0)
  device       auto, cpu, cuda, cuda:1; [cuda:0,cuda:1] shares the units between several
  batch        auto, or how many images go through the network at once
  root         where run folders go (outputs)
  contrast     RMS contrast of every image, grey levels (32); norm=paper for the paper's table
  record       gif or mp4: also film the optimization
  analysis     all, or [gain,phase,shift,deformation,diversity,dimension,natural]
  natural      folder of photographs, for natural exemplars
  seeds        how many seeds, from `seed` on: mean and spread of every index (1)
  measure      standard, or published: the texture test's optimizer; measure.shift.steps=...
  model.weights           imagenet, random, or a .safetensors or .pth file
  objective               diverse, threshold (objective.fraction=0.85), path (objective.front=[...])
  objective.diversity     weight of the smallest distance between images; 0 for none
  objective.distance      pixels, or an earlier layer such as conv2_2
  objective.scale         best, natural (with objective.photographs=FOLDER) or none
  objective.direction     .npy or .safetensors file with directions in channel space
  optimizer               sphere, or paper: Adam as published
  optimizer.steps         at most so many (80; paper: 1000)
  again        true: a new version of finished work
  images       png, or tensor: without pictures, for many thousand units
  checkpoint   seconds between two checkpoints (30)
  units_per_job           in a sweep: auto, or how many units of a layer make one run
  hydra/launcher          where a sweep's jobs run: slurm, local, joblib, ray; docs/cluster.md

  diversevis run --cfg job        print every setting with its value, and run nothing
  diversevis run --hydra-help     Hydra's own flags (--config-dir, --multirun, ...)

Weights come from the folder that the variable DIVERSEVIS_WEIGHTS names, if it holds
<model>*.safetensors, else from torchvision's cache, else from the internet.
"""

LAYERS_HELP = """\
diversevis layers model=MODEL [model.key=value ...]

Lists every layer whose units have a receptive field of fixed size: its name (for layer=...), number
of units, receptive field and stride in pixels, and what the response is. Needs no weights.

Examples:
  diversevis layers model=resnet50
  diversevis layers model=torchvision model.name=alexnet
"""

WEIGHTS_HELP = """\
diversevis weights model=MODEL [layer=LAYER] [model.key=value ...]

Fetches the weights of a network into torchvision's cache (or finds them in the folder that
DIVERSEVIS_WEIGHTS names) and checks them, so that later runs need no internet. With a layer, it
checks that they reach so deep.

Examples:
  diversevis weights model=vgg19
  diversevis weights model=resnet50 model.weights=path/to/file.safetensors
"""

ANALYZE_HELP = """\
diversevis analyze FOLDER... [analysis=all] [natural=FOLDER] [measure....=...]
diversevis analyze model=MODEL layer=LAYER unit=UNITS [analysis=[phase,natural]] [key=value ...]

Measures the invariances of the units of finished runs and writes them into their folders: numbers
into metrics.json, curves and images into analysis/*.safetensors, pictures into analysis/*.png.
Measures taken before and not named now stay. Without a folder, it takes the measures that need no
images (phase, natural) of the units named, and makes a folder for them.

Examples:
  diversevis analyze outputs/vgg19/conv2_1/12/v001
  diversevis analyze outputs/vgg19/*/*/v001 analysis=[phase,shift] measure.shift.crops=32
  diversevis analyze model=vgg19 layer=conv2_2 unit=all analysis=phase

Measures:
  gain         against as many images each made alone: distances, response
  phase        F1/F0 of the best grating, and of the grating most like the best image
  shift        a texture of which every crop drives the unit, under a fixed and a learned mask
  deformation  response kept under smooth deformations, and stability against noise as large
  diversity    mean distance, between that of a simple (0) and of a complex cell (1)
  dimension    participation ratio; responses between images along great circles
  natural      the crops of natural=FOLDER that drive the unit most

What people set:
  analysis     all, or some of them: analysis=[phase,shift]
  natural      folder of photographs (JPEG, PNG, ...; any size, nested)
  device, batch                as in `diversevis run`
  measure      standard, or published: the texture test's optimizer
  measure.shift.crops          of the texture, drawn for each step (all)
  measure.deformation.draws    random deformations of each image (16)
  measure.sample               units drawn at random that shift and deformation take (all)
  measure.pictures             units with pictures of their own: all, or a number (the extremes)
  diversevis run --cfg job     shows all of measure.*
"""

COMPARE_HELP = """\
diversevis compare A B [out=FOLDER] [resamples=10000] [seed=0]

Compares the invariances of two sets of units, index by index. A and B are run folders, or folders
above several runs (outputs/vgg19): then of each model, layer and units the latest finished version
with measures is taken, and runs of A and B are paired by receptive-field size. Runs need measures:
`diversevis analyze FOLDER` makes them. Runs of different contrast, n, diversity weight, distance or
fraction, or measured with different settings, are refused.

Prints a table per pair and writes comparison.json, comparison.csv, a figure per pair and, of
several pairs, overview.png to out/v001 (v002, ...). The last line printed is that folder.

Examples:
  diversevis compare outputs/vgg19 outputs/resnet50
  diversevis compare outputs/vgg19/conv3_1/0-255/v001 outputs/resnet50/layer1.1/0-255/v001 out=claim

What people set:
  out          where the versions go (outputs/compare/<A>_vs_<B>)
  resamples    of the bootstrap (10000)
  seed         of the bootstrap (0)
"""


STATUS_HELP = """\
diversevis status [ROOT] [--failed]

Tells what has become of all runs below ROOT (outputs) and of all that sweeps have planned, by model
and layer. A run is

  finished     all of it is there
  running      its process gives signs of life; how far it has come, and when the last sign was
  waiting      not begun, or ended early, and its job or its sweep is still to come to it
  interrupted  by Ctrl-C, or because the system asked it to end; it goes on from its checkpoint
  failed       with an error, whose last line is shown
  lost         killed: out of memory, a node gone, a job cancelled; nobody is at it
  missing      planned, never begun, and nothing is to come
  damaged      its run.json cannot be read, or what it had finished is cut off or gone

Units are counted as finished/all. Only the newest version of the same work counts; other settings
are other work. Then it names who is at work, and what went wrong: the first 20 of each kind.

Examples:
  diversevis status
  diversevis status outputs/vgg19 --failed

What people set:
  --failed     all that failed, was lost, is missing or damaged: why, attempts, logs
"""

RETRY_HELP = """\
diversevis retry [ROOT] [hydra/launcher=...] [hydra.launcher.KEY=...]

Does again what `diversevis status` shows as failed, lost, interrupted, missing or damaged, with the
config it had: from its last checkpoint where there is one. Jobs go where they went before, or where
hydra/launcher=... says.

Examples:
  diversevis retry outputs
  diversevis retry outputs hydra/launcher=slurm hydra.launcher.mem_gb=64

What people set:
  ROOT                  where run folders are (outputs)
  hydra/launcher        slurm, local, joblib, ray or basic: here, one after the other
  hydra.launcher.KEY    its settings, such as partition, timeout_min, mem_gb
"""

COLLECT_HELP = """\
diversevis collect ROOT [out=FOLDER]

Writes every unit of every finished run at or below ROOT as one table, table.parquet and table.csv:
a row for each unit, with the settings by the names that one types (objective.diversity), facts of
its run (run.norm, run.seconds) and every number of metrics.json (response_mean, phase.f1f0). Works
while a sweep runs: what is running, lost, failed or damaged is left out, and left_out.csv says why.
The last line printed is the path of table.parquet. Needs pip install 'diversevis[collect]'.

Examples:
  diversevis collect outputs
  diversevis collect outputs/vgg19 out=tables

What people set:
  out          where the three files go (ROOT)

In Python: diversevis.collect("outputs") is the same table; table[table.latest] keeps the highest
finished version of each config.
"""
