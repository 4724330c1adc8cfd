"""Files that are written whole or not at all, and read only if nobody else could have made them.

outputs      atomic_file and atomic_directory: a temporary, renamed once it is complete
temporaries  their names and locks, and the removal of those that a killed process left
renames      renames that never replace, and the exchange of two folders
own          files that belong to this user, and the folders that they are in.
"""

from .outputs import atomic_directory, atomic_file, check_target, make_directory
from .own import file_sha256, lock_range, open_own, user_folder
from .temporaries import TEMPORARY_SUFFIX, temporary_name

__all__ = ["TEMPORARY_SUFFIX", "atomic_directory", "atomic_file", "check_target", "file_sha256",
           "lock_range", "make_directory", "open_own", "temporary_name", "user_folder"]
