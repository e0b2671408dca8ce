"""A data set packed into one LMDB file: one large file instead of many small ones, for slow or shared disks.

`format` says what the file holds, `reading` opens it, `writing` packs a folder. An image in it has the path
X.lmdb/its/path.jpg, as if the file were a folder, so code that handles samples need not know where they are stored.
"""
